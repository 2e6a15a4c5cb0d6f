package app

import (
	"os"
	"strings"
	"testing"
)

func TestThePageExplainsEveryCheckOfTheStore(t *testing.T) {
	page, err := os.ReadFile("../docs/stores.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range storeChecks {
		if !strings.Contains(string(page), "\n### "+c.code+"\n"+c.title+"\n") {
			t.Errorf("docs/stores.md has no %s that says %q", c.code, c.title)
		}
	}
	if n := strings.Count(string(page), "\n### SR"); n != len(storeChecks) {
		t.Errorf("%d checks on the page, %d are asked", n, len(storeChecks))
	}
}

func TestDoctorOfTheStore(t *testing.T) {
	r, secrets := newRedis(t), secretsFolder(t)
	at := []string{"--redis-url", "redis://" + r.Addr, "--secrets", secrets}
	t.Run("all holds", func(t *testing.T) {
		out := command(t, 0, append([]string{"doctor"}, at...)...)
		for _, c := range storeChecks {
			if !strings.Contains(out, c.code+"  "+c.title) {
				t.Errorf("no word of %s in:\n%s", c.code, out)
			}
		}
	})
	t.Run("a secret that is not the others'", func(t *testing.T) {
		onRedis(t, r, "--secrets", secrets)
		out := command(t, exitFailed, "doctor", "-o", "json", "--redis-url", "redis://"+r.Addr, "--secrets", secretsFolder(t))
		if !strings.Contains(out, `"severity": "fail"`) || !strings.Contains(out, codeSecret) {
			t.Error(out)
		}
	})
	t.Run("what can't be asked is skipped", func(t *testing.T) {
		r.Kill()
		out := command(t, exitFailed, append([]string{"doctor"}, at...)...)
		for _, want := range []string{"FAIL  SR101", "nobody listens there", "-     SR111", "-     SR141", "9 checks: 1 failed"} {
			if !strings.Contains(out, want) {
				t.Errorf("no word of %q in:\n%s", want, out)
			}
		}
	})
	t.Run("without a URL there is nothing to ask", func(t *testing.T) {
		if out := command(t, 1, "doctor"); !strings.Contains(out, "redis-url: empty") {
			t.Error(out)
		}
	})
}
