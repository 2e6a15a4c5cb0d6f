package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// B24: what has more than one reading is refused, and changes nothing.
func TestRESTRefusesAbuse(t *testing.T) {
	w := newWorld(t, "")
	w.gold(t, limit("hourly", 5))
	w.rest(t, "POST", "/v1/tenants/acme/apiKeys", "{}")
	before := w.state(t)
	const good = `{"displayName":"x"}`
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		want                     int
	}{
		{"a method override", "POST", "/v1/plans/gold", good, []string{"X-HTTP-Method-Override", "DELETE"}, 400},
		{"a method override on GET", "GET", "/v1/plans/gold", "", []string{"X-HTTP-Method-Override", "DELETE"}, 400},
		{"another spelling of it", "POST", "/v1/plans", good, []string{"X-HTTP-Method", "DELETE"}, 400},
		{"a third one", "POST", "/v1/plans", good, []string{"X-Method-Override", "PATCH"}, 400},
		{"a form", "POST", "/v1/plans?planId=n", "displayName=x", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"a form that overrides", "POST", "/v1/plans/gold", "_method=DELETE", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415},
		{"plain text", "POST", "/v1/plans?planId=n", good, []string{"Content-Type", "text/plain"}, 415},
		{"no content type", "POST", "/v1/plans?planId=n", good, []string{"Content-Type", ""}, 415},
		{"another charset", "POST", "/v1/plans?planId=n", good, []string{"Content-Type", "application/json; charset=utf-16"}, 415},
		{"a compressed body", "POST", "/v1/plans?planId=n", good, []string{"Content-Encoding", "gzip"}, 415},
		{"a duplicate key", "POST", "/v1/plans?planId=n", `{"displayName":"x","displayName":"y"}`, nil, 400},
		{"a duplicate key in two spellings", "POST", "/v1/plans?planId=n", `{"displayName":"x","display_name":"y"}`, nil, 400},
		{"an unknown field", "POST", "/v1/plans?planId=n", `{"colour":"red"}`, nil, 400},
		{"an unknown field deep inside", "PATCH", "/v1/plans/gold", `{"limits":[{"name":"a","colour":1}]}`, nil, 400},
		{"two values", "POST", "/v1/plans?planId=n", good + good, nil, 400},
		{"half a value", "POST", "/v1/plans?planId=n", `{"displayName":`, nil, 400},
		{"an array", "POST", "/v1/plans?planId=n", `[` + good + `]`, nil, 400},
		{"a string", "POST", "/v1/plans?planId=n", `"x"`, nil, 400},
		{"bytes that are not UTF-8", "POST", "/v1/plans?planId=n", "{\"displayName\":\"\xff\"}", nil, 400},
		{"deep nesting", "POST", "/v1/plans?planId=n", strings.Repeat("[", 200_000), nil, 400},
		{"10 MiB", "POST", "/v1/plans?planId=n", `{"displayName":"` + strings.Repeat("x", 10<<20) + `"}`, nil, 413},
		{"1 MiB and a byte", "POST", "/v1/plans?planId=n", `"` + strings.Repeat("x", maxBody-1) + `"`, nil, 413},
		{"an unknown parameter", "DELETE", "/v1/tenants/acme?force=true&validatOnly=true", "", nil, 400},
		{"a parameter twice", "DELETE", "/v1/tenants/acme?force=true&validateOnly=true&validateOnly=false", "", nil, 400},
		{"a parameter in two spellings", "DELETE", "/v1/tenants/acme?force=true&validateOnly=true&validate_only=false", "", nil, 400},
		{"a parameter of the path", "DELETE", "/v1/tenants/acme?force=true&name=tenants/other", "", nil, 400},
		{"a resource in the query", "POST", "/v1/plans?planId=n&plan.displayName=x", good, nil, 400},
		{"a broken query", "GET", "/v1/plans?pageSize=%zz", "", nil, 400},
		{"a number that is none", "GET", "/v1/plans?pageSize=many", "", nil, 400},
		{"a body on GET", "GET", "/v1/plans", good, nil, 400},
		{"a body on DELETE", "DELETE", "/v1/tenants/acme", good, nil, 400},
		{"a method that is not for the path", "PUT", "/v1/plans/gold", good, nil, 405},
		{"an unknown method", "BREW", "/v1/plans", "", nil, 405},
		{"an encoded slash", "DELETE", "/v1/plans%2Fgold", "", nil, 404},
		{"two slashes", "DELETE", "/v1//plans/gold", "", nil, 404},
		{"a trailing slash", "DELETE", "/v1/plans/gold/", "", nil, 404},
		{"dots", "DELETE", "/v1/tenants/../plans/gold", "", nil, 404},
		{"upper case", "GET", "/v1/Plans", "", nil, 404},
		{"another version", "GET", "/v2/plans", "", nil, 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := w.rest(t, c.method, c.path, c.body, c.header...)
			if code != c.want {
				t.Errorf("%d, want %d: %s", code, c.want, body)
			}
			var status struct {
				Code    int
				Message string
				Details []map[string]any
			}
			if err := json.Unmarshal([]byte(body), &status); err != nil || status.Code == 0 || len(status.Details) == 0 {
				t.Errorf("the answer is no google.rpc.Status with details: %s", body)
			}
		})
	}
	if after := w.state(t); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
}

func TestRESTBodyWithoutLengthIsBounded(t *testing.T) {
	w := newWorld(t, "")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v1/plans?planId=n",
		struct{ *strings.Reader }{strings.NewReader(strings.Repeat(" ", 2*maxBody))})
	must(t, err)
	r.ContentLength = -1
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	if code, body := do(t, r); code != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", code, body)
	}
}

func TestRESTChecksTheTokenFirst(t *testing.T) {
	w := newWorld(t, "")
	for _, body := range []string{"{", strings.Repeat(" ", 2*maxBody)} {
		if code, answer := w.rest(t, "POST", "/v1/nowhere", body, "Authorization", "Bearer wrong"); code != http.StatusUnauthorized {
			t.Errorf("%d %s", code, answer)
		}
	}
	if code, answer := w.rest(t, "GET", "/v1/plans", "", "Grpc-Metadata-Authorization", "Bearer wrong"); code != http.StatusOK {
		t.Errorf("a header that is none of ours counts as metadata: %d %s", code, answer)
	}
}

func TestRESTAsTheGuideShowsIt(t *testing.T) {
	w := newWorld(t, "")
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/v1/plans?planId=gold", `{"limits":[{"name":"per-minute","algorithm":"gcra","limit":600,"window":"60s","burst":100}]}`, `"name":"plans/gold"`},
		{"POST", "/v1/tenants?tenantId=acme", `{"plan":"plans/gold","displayName":"Acme"}`, `"name":"tenants/acme"`},
		{"POST", "/v1/tenants/acme/apiKeys", `{}`, `"secret":"slk_`},
		{"POST", "/v1/tenants/acme/apiKeys", `{"expireTime":"2027-01-01T00:00:00Z"}`, `"expireTime":"2027-01-01T00:00:00Z"`},
		{"POST", "/v1/tenants/acme/apiKeys", ``, `"secret":"slk_`},
		{"GET", "/v1/tenants/acme/usage", ``, `"limitName":"per-minute"`},
		{"PATCH", "/v1/plans/gold?updateMask=displayName", `{"displayName":"Gold"}`, `"displayName":"Gold"`},
		{"GET", "/v1/plans?pageSize=1", ``, `"nextPageToken":""`},
		{"DELETE", "/v1/tenants/acme?force=true", ``, `{}`},
		{"DELETE", "/v1/plans/gold", ``, `{}`},
	} {
		code, body := w.rest(t, c.method, c.path, c.body)
		if body = strings.ReplaceAll(body, " ", ""); code != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %s in it", c.method, c.path, code, body, c.want)
		}
	}
}

func TestTheDescriptionNeedsNoToken(t *testing.T) {
	w := newWorld(t, "")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+"/openapi.json", http.NoBody)
	must(t, err)
	code, body := do(t, r)
	if code != 200 || !json.Valid([]byte(body)) || !strings.Contains(body, `"swagger"`) {
		t.Errorf("%d %.100s", code, body)
	}
	if code, body := w.rest(t, "POST", "/openapi.json", "{}"); code != 405 {
		t.Errorf("POST: %d %s", code, body)
	}
}
