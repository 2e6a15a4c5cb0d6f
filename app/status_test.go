package app

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"
)

// serving is a server that was started, and is stopped when the test ends.
func serving(t *testing.T, c Config) *App {
	t.Helper()
	c.Data = t.TempDir()
	if _, err := Init(c.Data); err != nil {
		t.Fatal(err)
	}
	a, err := New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	return a
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	response, err := http.Get(url) //nolint:gosec // a listener of ours
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// TestTheStatusPortHasNoAPI: what probes and Prometheus may reach from anywhere
// is no way to the quota API.
func TestTheStatusPortHasNoAPI(t *testing.T) {
	c, err := load(t, nil, []string{"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--status-listen", ":0"})
	if err != nil {
		t.Fatalf("any address will do for it: %v", err)
	}
	c.DrainTimeout = time.Second
	a := serving(t, c)
	status, all := "http://"+a.Addr("status-listen").String(), "http://"+a.Addr("http-listen").String()
	for path, want := range map[string][2]int{
		"/healthz":      {200, 200},
		"/readyz":       {200, 200},
		"/metrics":      {200, 200},
		"/v1/tenants":   {404, 401},
		"/v1/":          {404, 401},
		"/openapi.json": {404, 200},
		"/":             {404, 404},
	} {
		for i, at := range []string{status, all} {
			if got, body := get(t, at+path); got != want[i] {
				t.Errorf("%s%s: %d, want %d\n%s", at, path, got, want[i], body)
			}
		}
	}
}
