package voicecore

import (
	"encoding/json"
	"strings"
	"testing"
)

// verified: 'sluice mesh verify' asks through the gateway, as a tenant would, and looks into the proxies.
func (m *mesh) verified(t *testing.T) {
	key := m.tenant(t, "probe", 12)
	out, _ := m.try(t, "verify", "-o", "json", "--probe-url", "http://"+public+"/", "--probe-address", m.edge+":80",
		"--probe-header", "x-api-key: "+key, "--probe-excluded", "/healthz", "--probe-limit", "20")
	if strings.Contains(out, key) {
		t.Error("the credential is told")
	}
	var report struct {
		Results []struct {
			Code     string
			Findings []struct{ Severity, Says string }
		}
	}
	if i := strings.LastIndex(out, "}\n"); i < 0 || json.Unmarshal([]byte(out[:i+1]), &report) != nil {
		t.Fatalf("verify printed no report:\n%s", out)
	}
	asked := 0
	for _, r := range report.Results {
		if r.Code == "SV241" { // not all consoles' images run something here
			continue
		}
		asked++
		for _, f := range r.Findings {
			if f.Severity == "fail" || r.Code == "SV231" || r.Code == "SV233" || r.Code == "SV234" {
				t.Errorf("%s %s: %s", f.Severity, r.Code, f.Says)
			}
		}
	}
	if asked < 15 {
		t.Errorf("only %d checks were asked:\n%s", asked, out)
	}
}
