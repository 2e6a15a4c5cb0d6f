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
		"--probe-header", "x-api-key: "+key, "--probe-forbidden", "/admin/users", "--probe-excluded", "/healthz", "--probe-limit", "20")
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
			if f.Severity == "fail" || strings.HasPrefix(r.Code, "SV23") {
				t.Errorf("%s %s: %s", f.Severity, r.Code, f.Says)
			}
		}
	}
	// What the credential may have is not refused: verify says so of a path that is named as forbidden.
	if out, status := m.try(t, "verify", "--probe-url", "http://"+public+"/", "--probe-address", m.edge+":80", "--probe-header", "x-api-key: "+m.tenant(t, "probed", 12), "--probe-forbidden", "/open"); status != 3 ||
		!strings.Contains(out, "FAIL  SV232") || !strings.Contains(out, "a request for what the credential may not have is not refused") || !strings.Contains(out, "200, not 403") {
		t.Errorf("verify: exit status %d, want 3 and SV232\n%s", status, out)
	}
	if asked < 15 {
		t.Errorf("only %d checks were asked:\n%s", asked, out)
	}
}
