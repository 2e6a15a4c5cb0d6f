package e2e

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/cli/stack"
	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// from is a client whose connections come from an address of this machine.
func from(ip string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 8}}
}

// count is how many answers a caller got, by status; 0 for none.
type count map[int]int

// ask asks again and again until done is closed, and counts how often in asked.
func ask(client *http.Client, url string, done <-chan struct{}, asked *atomic.Int64, credential func() (header, value string)) count {
	got := count{}
	for {
		select {
		case <-done:
			return got
		default:
		}
		request, err := http.NewRequest(http.MethodGet, url+"/v1/calls", nil)
		if err != nil {
			return got
		}
		request.Header.Set(credential())
		response, err := client.Do(request)
		asked.Add(1)
		if err != nil {
			got[0]++
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		got[response.StatusCode]++
	}
}

// TestAFloodOfBadTokensLeavesGoodCallersAlone: distinct tokens, each with a wrong signature
// by a known key, from six addresses for ten seconds; good callers of four kinds meanwhile.
func TestAFloodOfBadTokensLeavesGoodCallersAlone(t *testing.T) {
	idp, key := startIssuers(t), newKey(t)
	idp.publish("/good", ecJWK("es", key))
	w := start(t, stack.Options{Catalog: issuerFile(t, "", entry("good", idp.URL+"/good", private))})
	made, err := w.quota.CreateApiKey(w.admin(t), &quotav1.CreateApiKeyRequest{Parent: "tenants/acme"})
	if err != nil {
		t.Fatal(err)
	}
	good := &signer{key: key, kid: "es", issuer: issuerOf("good")}
	bad := &signer{key: newKey(t), kid: "es", issuer: issuerOf("good")}
	remembered := good.token(nil)
	bearing := func(token string) (string, string) { return "authorization", "Bearer " + token }
	byKey := func() (string, string) { return "x-api-key", made.GetSecret() }
	kept := func() (string, string) { return bearing(remembered) }
	if got := askOnce(from("127.0.0.1"), w.URL, kept); got != http.StatusOK {
		t.Fatalf("a good token before the flood: %d", got)
	}
	done := make(chan struct{})
	var all sync.WaitGroup
	run := func(into *count, asked *atomic.Int64, ip string, credential func() (string, string)) {
		all.Go(func() { *into = ask(from(ip), w.URL, done, asked, credential) })
	}
	var flooded atomic.Int64
	var asked [4]atomic.Int64
	floods, callers, began := make([]count, 6), make([]count, len(asked)), time.Now()
	for i := range floods {
		run(&floods[i], &flooded, "127.0.0."+string(rune('2'+i)), func() (string, string) { return bearing(bad.token(nil)) })
	}
	names := []string{"an API key", "a token that was seen before", "new tokens", "a token that was seen before, from an address that floods"}
	run(&callers[0], &asked[0], "127.0.0.100", byKey)
	run(&callers[1], &asked[1], "127.0.0.101", kept)
	run(&callers[2], &asked[2], "127.0.0.102", func() (string, string) { return bearing(good.token(nil)) })
	run(&callers[3], &asked[3], "127.0.0.2", kept)
	wait(t, 10*time.Second)
	await.That(t, "there were a thousand bad tokens, and a hundred requests of each good caller", func() bool {
		for i := range asked {
			if asked[i].Load() < 100 {
				return false
			}
		}
		return flooded.Load() >= 1000
	})
	close(done)
	all.Wait()
	lasted := time.Since(began)
	for i, got := range callers {
		if len(got) != 1 || got[http.StatusOK] < 100 {
			t.Errorf("a good caller with %s got %v, want at least 100 times 200 and nothing else", names[i], got)
		}
	}
	total := 0
	for _, got := range floods {
		for status, n := range got {
			total += n
			if status != http.StatusUnauthorized {
				t.Errorf("a bad token got %d, %d times", status, n)
			}
		}
	}
	t.Logf("%d bad tokens; good callers got %v", total, callers)
	if total < 1000 {
		t.Errorf("%d bad tokens are no flood", total)
	}
	if n := idp.fetched("/good"); n > 2 {
		t.Errorf("%d fetches of the keys", n)
	}
	t.Run("the audit log has counted each of them, and written down few", func(t *testing.T) {
		var singly, counted int
		await.That(t, "all are counted", func() bool {
			singly, counted = 0, 0
			for _, r := range w.audited(t) {
				switch r.Kind {
				case "decision":
					singly++
				case "summary":
					counted += int(r.Count)
				}
			}
			return singly+counted >= total
		})
		if singly+counted != total || singly > 100+20*int(lasted.Seconds()) { // ten a second, and twenty at once
			t.Errorf("%d singly and %d in summaries, want %d together", singly, counted, total)
		}
	})
}

func askOnce(client *http.Client, url string, credential func() (string, string)) (status int) {
	done := make(chan struct{})
	once := false
	got := ask(client, url, done, new(atomic.Int64), func() (string, string) {
		if !once {
			once = true
			close(done)
		}
		return credential()
	})
	for status = range got {
	}
	return status
}
