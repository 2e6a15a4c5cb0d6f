package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/deploy"
	"github.com/voicecore-ai/sluice/testca"
)

func TestEnvoyTakesEveryConfiguration(t *testing.T) {
	ca := testca.New(t)
	own := ca.Workload(t, time.Now().Add(time.Hour), serviceA)
	files := strings.NewReplacer("${TLS_CERT}", own.CertFile, "${TLS_KEY}", own.KeyFile, "${TLS_CA}", ca.File,
		"${TRUST_DOMAIN}", "demo", "${SLUICE_ID}", serverID, "${NEXT_ID}", serviceB)
	for name, config := range map[string]string{
		"demo.yaml": deploy.Demo, "sidecar.yaml": deploy.Sidecar, "extproc.yaml": deploy.ExtProc, "streams.yaml": deploy.Streams,
		"rls.yaml": deploy.RLS, "mesh.yaml": deploy.Mesh, "demo.yaml with mtls.yaml": mutual(ca, own),
	} {
		t.Run(name+" is valid as it is, once its placeholders are filled in", func(t *testing.T) {
			port := 20000
			text := regexp.MustCompile(`\$\{[A-Z_]+_PORT\}`).ReplaceAllStringFunc(files.Replace(config), func(string) string {
				port++ // nothing is opened
				return strconv.Itoa(port)
			})
			if left := regexp.MustCompile(`: .*\$\{`).FindString(text); left != "" && !strings.Contains(left, "#") {
				t.Errorf("a placeholder that its top does not explain: %s", left)
			}
			path := filepath.Join(t.TempDir(), "envoy.yaml")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), envoy(), "--mode", "validate", "--config-path", path, "--log-level", "warning").CombinedOutput()
			if err != nil || !strings.Contains(string(out), "OK") {
				t.Errorf("%v: %s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "eprecated") {
					t.Errorf("Envoy warns: %s", line)
				}
			}
		})
	}
}
