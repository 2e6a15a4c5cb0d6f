// Package dashboards embeds the Grafana dashboards of Sluice, which deploy/dashboards/generate writes.
// They are for a Prometheus that scrapes sluiced and Envoy; it holds no other code.
package dashboards

import "embed"

// FS is one JSON file for each dashboard, at its root.
//
//go:embed *.json
var FS embed.FS
