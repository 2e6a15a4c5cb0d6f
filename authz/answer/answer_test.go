package answer_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dunglas/httpsfv"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/answer/answertest"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/ratelimit"
)

var update = flag.Bool("update", false, "write the golden files")

const zeroID = "00000000000000000000000000000000"

func decide(c answertest.Config, request gate.Request) *gate.Decision {
	d := new(gate.Decision)
	request.Action = answertest.Action()
	answertest.Gate(c).Admit(context.Background(), 0, &request, d)
	return d
}

func key(k string) gate.Request {
	return gate.Request{Peer: answertest.Peer, Credentials: authz.Credentials{APIKeys: []string{k}}}
}

// refusals has one decision for each reason that a gate gives.
func refusals() map[string]*gate.Decision {
	over := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()}
	never := answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()}
	never.Outcomes[0].RetryAfter, never.Outcomes[0].ResetAfter = ratelimit.Never, ratelimit.Never
	return map[string]*gate.Decision{
		"internal":        {},
		"unauthenticated": decide(answertest.Config{}, gate.Request{}),
		"suspended":       decide(answertest.Config{}, key(answertest.SuspendedKey)),
		"forbidden":       {Reason: gate.ReasonForbidden, Detail: "this peer may not ask"},
		"malformed":       decide(answertest.Config{}, gate.Request{Malformed: `two "hosts" – ünd <more>%`}),
		"over_limit":      decide(over, key(answertest.Key)),
		"over_for_ever":   decide(never, key(answertest.Key)),
		"unavailable":     decide(answertest.Config{Err: os.ErrDeadlineExceeded}, key(answertest.Key)),
		"unknown_reason":  {Reason: gate.Reason(200)},
	}
}

func render(a *answer.Answer, id string) string {
	var b strings.Builder
	for _, h := range a.Headers {
		b.WriteString(h.Name + ": " + string(h.Value) + "\n")
	}
	b.WriteString("\n")
	b.Write(a.Body)
	return strings.ReplaceAll(b.String(), id, zeroID)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got: %s\nwant: %s", name, got, want)
	}
}

func TestARefusalReadsTheSameEverywhere(t *testing.T) {
	w := answer.NewWriter(answer.Draft10)
	for name, d := range refusals() {
		t.Run(name+" over HTTP", func(t *testing.T) {
			var a answer.Answer
			w.Refused(&a, d, false)
			golden(t, name+".http", render(&a, gate.FormatID(d.ID)))
			var problem struct {
				Status int `json:"status"`
			}
			if err := json.Unmarshal(a.Body, &problem); err != nil || problem.Status != a.Status || a.Status < 400 {
				t.Errorf("status %d, body %s: %v", a.Status, a.Body, err)
			}
		})
		t.Run(name+" over gRPC", func(t *testing.T) {
			var a answer.Answer
			w.Refused(&a, d, true)
			if len(a.Body) > 0 {
				t.Errorf("a body would replace grpc-message: %s", a.Body)
			}
			got := details(t, &a)
			path := filepath.Join("testdata", name+".textproto")
			text := strings.ReplaceAll(prototext.Format(got), gate.FormatID(d.ID), zeroID)
			if *update {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			same, want := new(status.Status), new(status.Status)
			if err := prototext.Unmarshal([]byte(text), same); err != nil {
				t.Fatal(err)
			}
			if err := prototext.Unmarshal(file, want); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(same, want) {
				t.Errorf("details:\n got %s\nwant %s", text, file)
			}
			if uint32(got.Code) != a.Code || a.Code == 0 {
				t.Errorf("code %d, in the details %d", a.Code, got.Code)
			}
			for i, h := range a.Headers {
				if h.Name == "grpc-status-details-bin" {
					a.Headers[i].Value = []byte("(see .textproto)")
				}
			}
			golden(t, name+".grpc", render(&a, gate.FormatID(d.ID)))
		})
	}
}

func details(t *testing.T, a *answer.Answer) *status.Status {
	t.Helper()
	for _, h := range a.Headers {
		if h.Name != "grpc-status-details-bin" {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(string(h.Value))
		if err != nil {
			t.Fatal(err)
		}
		s := new(status.Status)
		if err := proto.Unmarshal(raw, s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	t.Fatal("no grpc-status-details-bin")
	return nil
}

func TestEveryReasonHasARefusal(t *testing.T) {
	want := map[gate.Reason][2]int{
		gate.ReasonInternal: {503, 14}, gate.ReasonAdmitted: {503, 14}, gate.ReasonUnauthenticated: {401, 16},
		gate.ReasonSuspended: {403, 7}, gate.ReasonForbidden: {403, 7}, gate.ReasonMalformed: {400, 3},
		gate.ReasonOverLimit: {429, 8}, gate.ReasonUnavailable: {503, 14},
	}
	for _, r := range gate.Reasons() {
		http, grpc := answer.Status(r)
		w, known := want[r]
		if !known || w != [2]int{http, int(grpc)} {
			t.Errorf("%v: %d and %d, want %v", r, http, grpc, w)
		}
	}
}

func fieldsOf(a *answer.Answer) map[string]string {
	m := map[string]string{}
	for _, h := range a.Headers {
		if strings.Contains(h.Name, "ratelimit") {
			m[h.Name] = string(h.Value)
		}
	}
	return m
}

func TestFieldsTellEveryPolicyAndTheTightestLimit(t *testing.T) {
	left := decide(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}, key(answertest.Key))
	for _, tt := range []struct {
		format answer.Format
		want   map[string]string
	}{
		{answer.Draft10, map[string]string{
			"ratelimit-policy": `"burst";q=100;w=60, "per \"day\"";q=5000;w=86400`,
			"ratelimit":        `"burst";r=42;t=35`,
		}},
		{answer.Draft06, map[string]string{
			"ratelimit-policy": "100;w=60, 5000;w=86400", "ratelimit-limit": "100",
			"ratelimit-remaining": "42", "ratelimit-reset": "35",
		}},
		{answer.Legacy, map[string]string{
			"x-ratelimit-limit": "100", "x-ratelimit-remaining": "42", "x-ratelimit-reset": "35",
		}},
		{answer.Off, map[string]string{}},
	} {
		t.Run(tt.format.String(), func(t *testing.T) {
			w := answer.NewWriter(tt.format)
			for range 2 { // built, then from the cache
				var a answer.Answer
				w.Admitted(&a, left)
				got := fieldsOf(&a)
				if len(got) != len(tt.want) {
					t.Errorf("got %v, want %v", got, tt.want)
				}
				for name, value := range tt.want {
					if got[name] != value {
						t.Errorf("%s: %q, want %q", name, got[name], value)
					}
				}
				for _, name := range []string{"ratelimit", "ratelimit-policy"} {
					if _, err := httpsfv.UnmarshalList([]string{got[name]}); err != nil {
						t.Errorf("%s is no structured field: %v", name, err)
					}
				}
			}
		})
	}
}

func TestAShadowLimitIsNotTold(t *testing.T) {
	limits := answertest.Limits()[2:]
	d := decide(answertest.Config{Limits: limits, Outcomes: answertest.Left()[2:]}, key(answertest.Key))
	if !d.Allowed() {
		t.Fatal("refused by a shadow limit")
	}
	var a answer.Answer
	answer.NewWriter(answer.Draft10).Admitted(&a, d)
	if len(a.Headers) != 0 {
		t.Errorf("told: %v", a.Headers)
	}
}

func TestANewRevisionReplacesWhatIsCached(t *testing.T) {
	w := answer.NewWriter(answer.Draft10)
	tell := func(hits int64, revision uint64) string {
		limits := []ratelimit.Limit{{Name: "a", Hits: hits, Window: 60e9}}
		d := decide(answertest.Config{Limits: limits, Outcomes: []ratelimit.Outcome{{Remaining: 1}}}, key(answertest.Key))
		d.Revision = revision
		var a answer.Answer
		w.Admitted(&a, d)
		return fieldsOf(&a)["ratelimit-policy"]
	}
	for _, step := range []struct {
		hits     int64
		revision uint64
		want     string
	}{
		{1, 1, `"a";q=1;w=60`},
		{2, 2, `"a";q=2;w=60`},
		{1, 1, `"a";q=1;w=60`}, // in flight while the catalogue was swapped
		{3, 2, `"a";q=3;w=60`}, // same revision, other limits: a route's, say
		{2, 3, `"a";q=2;w=60`},
	} {
		if got := tell(step.hits, step.revision); got != step.want {
			t.Errorf("revision %d: %q, want %q", step.revision, got, step.want)
		}
	}
}

func TestExtremeOutcomesStayWithinTheirFields(t *testing.T) {
	w := answer.NewWriter(answer.Draft10)
	for _, us := range []int64{math.MinInt64, -1, 0, 1, 999_999, 1_000_000, 1_000_001, ratelimit.Never, math.MaxInt64} {
		limits := []ratelimit.Limit{{Name: "smörgås\x00", Hits: ratelimit.MaxHits, Window: ratelimit.MaxWindow}}
		outcomes := []ratelimit.Outcome{{Over: true, Remaining: us, ResetAfter: us, RetryAfter: us}}
		var a answer.Answer
		w.Refused(&a, decide(answertest.Config{Limits: limits, Outcomes: outcomes}, key(answertest.Key)), false)
		for _, h := range a.Headers {
			for _, c := range h.Value {
				if c < ' ' || c > '~' {
					t.Errorf("%d: %s: %q", us, h.Name, h.Value)
				}
			}
			if h.Name == "retry-after" && (string(h.Value) == "0" || h.Value[0] == '-') {
				t.Errorf("%d: retry-after %s", us, h.Value)
			}
		}
		if _, err := httpsfv.UnmarshalList([]string{fieldsOf(&a)["ratelimit"]}); err != nil {
			t.Errorf("%d: %q: %v", us, fieldsOf(&a)["ratelimit"], err)
		}
		if !json.Valid(a.Body) {
			t.Errorf("%d: %s", us, a.Body)
		}
	}
}

func TestAFormatHasAName(t *testing.T) {
	for _, f := range []answer.Format{answer.Draft10, answer.Draft06, answer.Legacy, answer.Off} {
		if got, err := answer.ParseFormat(f.String()); err != nil || got != f {
			t.Errorf("%v: %v, %v", f, got, err)
		}
	}
	_, err := answer.ParseFormat("draft-3")
	const want = `rate-limit header format "draft-3": want one of draft-10, draft-06, legacy, off`
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestAdmittedDoesNotAllocate(t *testing.T) {
	w := answer.NewWriter(answer.Draft10)
	d := decide(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}, key(answertest.Key))
	var a answer.Answer
	if n := testing.AllocsPerRun(100, func() { w.Admitted(&a, d) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAdmitted(b *testing.B) {
	w := answer.NewWriter(answer.Draft10)
	d := decide(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Left()}, key(answertest.Key))
	var a answer.Answer
	b.ReportAllocs()
	for b.Loop() {
		w.Admitted(&a, d)
	}
}

func BenchmarkRefused(b *testing.B) {
	w := answer.NewWriter(answer.Draft10)
	d := decide(answertest.Config{Limits: answertest.Limits(), Outcomes: answertest.Over()}, key(answertest.Key))
	for name, grpc := range map[string]bool{"http": false, "grpc": true} {
		b.Run(name, func(b *testing.B) {
			var a answer.Answer
			b.ReportAllocs()
			for b.Loop() {
				w.Refused(&a, d, grpc)
			}
		})
	}
}

func TestADegradedAnswerSaysSoAndMakesUpNoNumber(t *testing.T) {
	outcomes := answertest.Left()
	outcomes[0].Degraded = true
	for _, f := range []answer.Format{answer.Draft10, answer.Off} {
		var a answer.Answer
		answer.NewWriter(f).Admitted(&a, decide(answertest.Config{Limits: answertest.Limits(), Outcomes: outcomes}, key(answertest.Key)))
		if !slices.ContainsFunc(a.Headers, func(h answer.Header) bool { return h.Name == "x-sluice-degraded" && string(h.Value) == "true" }) {
			t.Errorf("%v: %v", f, a.Headers)
		}
	}
	for i := range outcomes {
		outcomes[i] = ratelimit.Outcome{Remaining: -1, Degraded: true}
	}
	var a answer.Answer
	answer.NewWriter(answer.Draft10).Admitted(&a, decide(answertest.Config{Limits: answertest.Limits(), Outcomes: outcomes}, key(answertest.Key)))
	if len(a.Headers) != 1 {
		t.Errorf("more is told than is known: %v", a.Headers)
	}
}
