// Package chart embeds the Helm chart of sluiced, so that the installer renders
// the files that 'helm install deploy/chart' reads. It holds no other code and
// knows nothing of Helm.
package chart

import "embed"

// FS is the chart: Chart.yaml at its root, values, their schema, the templates, and the rules of deploy/prometheus.
//
//go:embed Chart.yaml README.md values.yaml values.schema.json all:templates rules
var FS embed.FS
