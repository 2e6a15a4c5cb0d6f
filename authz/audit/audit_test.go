package audit

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/authz"
)

var (
	testSeed  = [32]byte{1, 2, 3}
	otherSeed = [32]byte{9, 9, 9}
	testMask  = [32]byte{7}
)

// start is when time begins in a synctest bubble.
const start = int64(946_684_800_000_000)

func public(seed [32]byte) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
}

func options(t testing.TB) Options {
	t.Helper()
	return Options{Dir: filepath.Join(t.TempDir(), "audit"), Origin: "sluiced/test", Seed: testSeed, Mask: testMask, Wait: time.Minute}
}

// untimed is a log that signs when it is opened and closed, and at no time between that a busy machine or disk would choose.
func untimed(t testing.TB) Options {
	t.Helper()
	o := options(t)
	o.CheckpointEvery = time.Hour
	return o
}

func open(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal("Close:", err)
	}
}

func entry(class authz.Class) *Entry {
	return &Entry{
		Time: start, Class: class, Decision: [16]byte{1}, Trace: [16]byte{2}, Tenant: "acme", Plan: "gold",
		Principal: "idp/user-17", Scheme: authz.JWT, Roles: []string{"calls.read", "calls.write"},
		Peer: "spiffe://example/ns/edge/sa/gateway", Source: "203.0.113.7", Service: "calls", Method: "GET",
		Host: "api.example.com", Path: "/v1/calls/17?token=secret", Allowed: true, Reason: "admitted", Rule: "readers", Revision: 42,
	}
}

func record(t testing.TB, l *Log, e *Entry) {
	t.Helper()
	if err := l.Record(e); err != nil {
		t.Fatal("Record:", err)
	}
}

func check(t testing.TB, dir string, expect []byte) Report {
	t.Helper()
	r, err := Verify(os.DirFS(dir), VerifyOptions{Keys: []ed25519.PublicKey{public(testSeed)}, Expect: expect})
	if err != nil {
		t.Fatal("Verify:", err)
	}
	return r
}

func intact(t testing.TB, dir string) Report {
	t.Helper()
	r := check(t, dir, nil)
	if r.Problem != nil {
		t.Fatal("the log should be intact:", r.Problem)
	}
	return r
}

func read(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestARecordIsWrittenSignedAndFound(t *testing.T) {
	o := untimed(t)
	l := open(t, o)
	record(t, l, entry(authz.Required))
	record(t, l, entry(authz.BestEffort))
	record(t, l, entry(authz.Unrecorded))
	closeLog(t, l)
	r := intact(t, o.Dir)
	if r.Origin != o.Origin || r.First != 1 || r.Last != 5 || r.Signed != 4 || r.Checkpoints != 2 {
		t.Errorf("report %+v", r)
	}
	var found []Record
	err := Search(os.DirFS(o.Dir), Filter{Tenant: "acme", Reason: "admitted"}, func(r *Record, text []byte) error {
		again, err := ParseRecord(text)
		if err != nil || again.Hash != r.Hash {
			t.Errorf("the line reads %+v, %v", again, err)
		}
		found = append(found, *r)
		return nil
	})
	if err != nil || len(found) != 2 {
		t.Fatalf("found %d, %v", len(found), err)
	}
	f := found[0]
	if !f.Required || found[1].Required || f.Path != "/v1/calls/17" || f.Source != "203.0.113.0/24" || f.Scheme != "jwt" ||
		len(f.Roles) != 2 || f.Allowed == nil || !*f.Allowed || f.Revision != 42 || f.Decision != "01"+strings.Repeat("00", 15) {
		t.Errorf("found %+v", f)
	}
	if err := l.Record(entry(authz.Required)); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed log says %v", err)
	}
	if !bytes.Equal(read(t, o.Dir, publicFile), publicPEM(public(testSeed))) {
		t.Error("the public key is not beside the log")
	}
}
