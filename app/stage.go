package app

import (
	"context"
	"time"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit/rls"
)

// remindEvery is how often the log says that the stage is soft: nobody may forget that it has to end.
const remindEvery = time.Hour

// remind warns at once, then every hour, that nothing is protected.
func (a *App) remind(ctx context.Context) {
	ticker := time.NewTicker(remindEvery)
	defer ticker.Stop()
	for {
		admitted := []any{"stage", soft}
		for _, r := range gate.Reasons() {
			if r.Soft() {
				admitted = append(admitted, r.String(), a.gate.SoftCount(r))
			}
		}
		a.log.Warn("the stage is soft, so nothing is protected: what identity, rules and limits would refuse is admitted and recorded; "+
			"set stage to enforced once no record shows a refusal that you do not want", append(admitted, "rls", a.rls.Count(rls.Shadowed))...)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
