package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/audit"
	"github.com/voicecore-ai/sluice/exit"
)

// run is one command line: what it prints, and its exit status.
func run(t *testing.T, args ...string) (out string, code int, err error) {
	t.Helper()
	var b bytes.Buffer
	c := Command()
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetArgs(args)
	err = c.Execute()
	return b.String(), exit.Code(err), err
}

func auditLog(t *testing.T) (dir, key string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	now := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC).UnixMicro()
	l, err := audit.Open(audit.Options{
		Dir: dir, Origin: "sluiced/test", Seed: [32]byte{1}, Mask: [32]byte{2}, Now: func() int64 { return now },
		Wait: time.Minute, CheckpointEvery: time.Hour, // however busy the disk is
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range []audit.Entry{
		{Tenant: "acme", Principal: "idp/17", Method: "GET", Host: "api.example.com", Path: "/v1/calls", Allowed: true, Reason: "admitted", Rule: "readers", Decision: [16]byte{0xab}},
		{Tenant: "acme", Principal: "idp/18", Method: "DELETE", Host: "api.example.com", Path: "/v1/calls/1\x1b[31m", Reason: "forbidden", Rule: "no-delete"},
		{Tenant: "umbrella", Principal: "idp/19", Method: "GET", Path: "/", Reason: "over_limit"},
		{Kind: audit.KindAdmin, Tenant: "acme", Allowed: true, Actor: "admin", Act: "create", Resource: "tenants/acme/apiKeys/k"},
	} {
		e.Time, e.Class = now+int64(i)*time.Hour.Microseconds(), authz.Required
		if err := l.Record(&e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, filepath.Join(dir, "audit.pub")
}

func TestAuditVerify(t *testing.T) {
	dir, key := auditLog(t)
	segment := filepath.Join(dir, "audit-00000001.jsonl")
	good, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "checkpoint")
	t.Run("it can't tell without a key", func(t *testing.T) {
		for _, args := range [][]string{
			{dir},
			{dir, "--public-key", filepath.Join(dir, "missing")},
			{dir, "--public-key", segment},
			{dir, "--public-key", key, "--checkpoint", filepath.Join(dir, "missing")},
			{t.TempDir(), "--public-key", key},
			{filepath.Join(dir, "missing"), "--public-key", key},
			{dir, "--public-key", key, "-o", "yaml"},
			{dir, "--public-key", key, "--no-such-flag"},
			{dir, dir, "--public-key", key},
			{},
		} {
			if _, code, err := run(t, append([]string{"audit", "verify"}, args...)...); code != 2 || err.Error() == "" {
				t.Errorf("%q: exit status %d, %v", args, code, err)
			}
		}
	})
	t.Run("a changed record is named, and the exit status is 1", func(t *testing.T) {
		if err := os.WriteFile(segment, bytes.Replace(good, []byte("idp/18"), []byte("idp/81"), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code, _ := run(t, "audit", "verify", dir, "--public-key", key)
		if code != 1 || !strings.Contains(out, "NOT WHOLE: audit-00000001.jsonl:4: record 4 does not have the hash") {
			t.Errorf("exit status %d: %s", code, out)
		}
		out, code, _ = run(t, "audit", "verify", dir, "--public-key", key, "-o", "json")
		var r audit.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || r.Problem == nil || r.Problem.Line != 4 || r.Problem.Seq != 4 {
			t.Errorf("exit status %d: %s", code, out)
		}
		if err := os.WriteFile(segment, good, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a whole log has exit status 0", func(t *testing.T) {
		out, code, err := run(t, "audit", "verify", dir, "--public-key", key, "--closed")
		if code != 0 || !strings.Contains(out, "whole: records 1 to 7 of sluiced/test, in 1 files, 2 signatures\nsigned up to record 6, at 2026-11-25T08:00:00.000000Z\n") {
			t.Errorf("exit status %d, %v: %s", code, err, out)
		}
	})
	t.Run("a checkpoint kept elsewhere is compared", func(t *testing.T) {
		out, code, err := run(t, "audit", "checkpoint", dir)
		if code != 0 || !strings.HasPrefix(out, "sluiced/test\n6\n") {
			t.Fatal(out, err)
		}
		if err := os.WriteFile(kept, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code, err := run(t, "audit", "verify", dir, "--public-key", key, "--checkpoint", kept); code != 0 {
			t.Error(out, err)
		}
		if err := os.WriteFile(kept, []byte(strings.Replace(out, "\n6\n", "\n9\n", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code, _ := run(t, "audit", "verify", dir, "--public-key", key, "--checkpoint", kept); code != 1 || !strings.Contains(out, "checkpoint kept elsewhere is not signed") {
			t.Error(out)
		}
	})
	t.Run("a folder without a log has no checkpoint", func(t *testing.T) {
		if _, code, _ := run(t, "audit", "checkpoint", t.TempDir()); code != 1 {
			t.Errorf("exit status %d", code)
		}
	})
}

func TestAuditSearch(t *testing.T) {
	dir, _ := auditLog(t)
	for _, c := range []struct {
		does string
		args []string
		want []string // a part of each line
	}{
		{"everything", nil, []string{"readers", "no-delete", "over_limit", "apiKeys"}},
		{"one tenant's", []string{"--tenant", "acme"}, []string{"readers", "no-delete", "apiKeys"}},
		{"what was refused", []string{"--denied"}, []string{"no-delete", "over_limit"}},
		{"one decision", []string{"--decision", "ab" + strings.Repeat("00", 15)}, []string{"readers"}},
		{"one rule's", []string{"--rule", "no-delete"}, []string{"DELETE"}},
		{"one reason", []string{"--reason", "over_limit"}, []string{"umbrella"}},
		{"one principal's", []string{"--principal", "idp/17"}, []string{"allow"}},
		{"a span of time", []string{"--since", "2026-11-25T09:00:00Z", "--until", "2026-11-25T11:00:00Z"}, []string{"no-delete", "over_limit"}},
		{"a day without records", []string{"--since", "2026-11-26"}, nil},
	} {
		t.Run("it finds "+c.does, func(t *testing.T) {
			for _, output := range []string{"table", "json"} {
				out, code, err := run(t, append([]string{"audit", "search", dir, "-o", output}, c.args...)...)
				lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
				if out == "" {
					lines = nil
				}
				if code != 0 || len(lines) != len(c.want) {
					t.Fatalf("exit status %d, %v: %s", code, err, out)
				}
				for i, part := range c.want {
					if output == "table" && !strings.Contains(lines[i], part) {
						t.Errorf("line %d is %s, want %s in it", i, lines[i], part)
					}
					if output == "json" && !json.Valid([]byte(lines[i])) {
						t.Errorf("no JSON: %s", lines[i])
					}
				}
			}
		})
	}
	t.Run("A-04 a terminal gets no control characters", func(t *testing.T) {
		out, _, _ := run(t, "audit", "search", dir)
		if strings.ContainsAny(out, "\x1b") || !strings.Contains(out, `/v1/calls/1\u001b[31m`) {
			t.Errorf("%q", out)
		}
	})
	t.Run("bad flags and folders are refused with a sentence", func(t *testing.T) {
		for _, args := range [][]string{{dir, "--since", "yesterday"}, {dir, "--until", "-1h"}, {dir, "-o", "yaml"}, {t.TempDir()}, {}} {
			if _, code, err := run(t, append([]string{"audit", "search"}, args...)...); code != 1 || err == nil {
				t.Errorf("%q: exit status %d, %v", args, code, err)
			}
		}
	})
}
