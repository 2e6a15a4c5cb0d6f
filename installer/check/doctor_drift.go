package check

import (
	"context"
	"fmt"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

var driftChecks = []Check{
	{Code: "SD341", Title: "the cluster is what was laid down", Severity: Fail, run: drift},
}

func drift(ctx context.Context, m *Mesh) ([]Finding, error) {
	changes, err := m.reads.changes(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for i := range changes {
		c := &changes[i]
		if c.Action == cluster.Keep {
			continue
		}
		says := map[cluster.Action]string{
			cluster.Create: "it was laid down and is gone", cluster.Update: "somebody changed it", cluster.Delete: "the mesh no longer has it",
		}[c.Action]
		evidence := "sluice mesh diff: " + string(c.Action)
		for _, conflict := range c.Conflicts {
			evidence += "; " + conflict.String()
		}
		out = append(out, Finding{
			Object: c.Object, Says: says, Evidence: evidence,
			Fix: fmt.Sprintf("'sluice mesh diff' shows it; 'sluice mesh install' lays component %s down again", c.Component),
		})
	}
	return out, nil
}
