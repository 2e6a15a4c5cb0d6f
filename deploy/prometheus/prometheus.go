// Package prometheus embeds the recording rules and alerts of Sluice, for a Prometheus whose job of it is named sluice, so that
// the chart, the installer and the tests have one text of them. It holds no other code.
package prometheus

import _ "embed" // the rules

// The rule files.
var (
	//go:embed alerts.yaml
	Alerts string
	//go:embed recording.yaml
	Recording string
)
