//go:build !race

package authz_test

const poolsForget = false
