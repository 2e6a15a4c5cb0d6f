// Package prometheus embeds the recording rules and alerts of Sluice as a plain Prometheus reads them, so that
// the chart, the installer and the tests have one text of them. It knows nothing of Prometheus.
package prometheus

import (
	_ "embed" // the rules
	"strings"
)

// The rule files.
var (
	//go:embed alerts.yaml
	Alerts string
	//go:embed recording.yaml
	Recording string
)

// job is how the rule files tell what is Sluice's from what is not.
const job = `job="sluice"`

// Select is a rule file for a Prometheus that knows Sluice by other labels, such as app="sluice".
func Select(rules, matchers string) string { return strings.ReplaceAll(rules, job, matchers) }
