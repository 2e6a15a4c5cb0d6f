//go:build !race

package rls

const slow = 1
