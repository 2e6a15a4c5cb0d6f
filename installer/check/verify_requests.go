package check

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/tenant"
)

var requestChecks = []Check{
	{Code: "SV231", Title: "a request with a good credential gets its answer", Severity: Fail, run: admitted},
	{Code: "SV232", Title: "a request without one, or about what it may not, is refused", Severity: Fail, run: refused},
	{Code: "SV233", Title: "a tenant that sends too much gets 429", Severity: Fail, run: limited},
	{Code: "SV234", Title: "a tenant header that a caller brings does not get through, on excluded paths too", Severity: Fail, run: forged},
}

// Probe is what is asked of the mesh through its gateway, as a tenant would.
type Probe struct {
	// URL is something that the credential may have.
	URL string
	// Address is dialled in place of the URL's host: an address and port of the gateway. Empty: the host's.
	Address string
	// Headers carry the credential, each "name: value". They are not told in any finding.
	Headers []string
	// Forbidden is a URL or path that the credential may not have. Empty: not asked for.
	Forbidden string
	// Excluded is a URL or path of sluice.excludedPaths. Empty: not asked for.
	Excluded string
	// Limit is after how many requests one must be refused with 429, at most. 0: not tried, since it uses up what the tenant has.
	Limit int
	// Insecure believes any certificate of the gateway.
	Insecure bool
}

// unprobed says that nothing was asked.
func unprobed(what, flag string) []Finding {
	return []Finding{{Severity: Warn, Object: "the ingress gateway", Says: "not probed: " + what, Fix: "say " + flag}}
}

const probeURL = "--probe-url, with the credential in --probe-header"

// send makes one request and returns its status, and its header and the beginning of its body as text.
func (p *Probe) send(ctx context.Context, at string, headers ...string) (status int, answer string, err error) {
	base, err := url.Parse(p.URL)
	if err != nil {
		return 0, "", err
	}
	to, err := base.Parse(at)
	if err != nil {
		return 0, "", err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), http.NoBody)
	if err != nil {
		return 0, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		request.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: p.Insecure}} //nolint:gosec // only when asked for
	if p.Address != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, p.Address)
		}
	}
	c := &http.Client{
		Timeout: 30 * time.Second, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := c.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	var b strings.Builder
	_ = response.Header.Write(&b)
	return response.StatusCode, b.String() + string(body), err
}

// expect sends a request and says what came in place of one of the statuses.
func (p *Probe) expect(ctx context.Context, at string, headers []string, says, fix string, want ...int) []Finding {
	status, _, err := p.send(ctx, at, headers...)
	switch {
	case err != nil:
		return []Finding{{Object: at, Says: "no answer: " + err.Error(), Fix: "see that the gateway's address and port are right, and that it listens (kubectl get service -A)"}}
	case slices.Contains(want, status):
		return nil
	}
	return []Finding{{Object: at, Says: says, Evidence: fmt.Sprintf("%d, not %s", status, strings.Trim(strings.ReplaceAll(fmt.Sprint(want), " ", " or "), "[]")), Fix: fix}}
}

func admitted(ctx context.Context, m *Mesh) ([]Finding, error) {
	if m.probe == nil || m.probe.URL == "" {
		return unprobed("there is nothing to ask for", probeURL), nil
	}
	fix := "the answer's decision id, and 'sluice authz explain', say why; 503 is Sluice not answering (SV202), 404 no route"
	return m.probe.expect(ctx, m.probe.URL, m.probe.Headers, "a request that should pass does not", fix, http.StatusOK, http.StatusNoContent), nil
}

func refused(ctx context.Context, m *Mesh) ([]Finding, error) {
	if m.probe == nil || m.probe.URL == "" {
		return unprobed("there is nothing to ask for", probeURL), nil
	}
	const fix = "SV212 says whether the gateway asks Sluice at all, SD301 whether the stage is soft"
	out := m.soften(m.probe.expect(ctx, m.probe.URL, nil, "a request without a credential is not refused", fix, http.StatusUnauthorized, http.StatusForbidden))
	if m.probe.Forbidden == "" {
		return append(out, unprobed("what the credential may not have", "--probe-forbidden")...), nil
	}
	return append(out, m.soften(m.probe.expect(ctx, m.probe.Forbidden, m.probe.Headers, "a request for what the credential may not have is not refused", fix, http.StatusForbidden))...), nil
}

func limited(ctx context.Context, m *Mesh) ([]Finding, error) {
	if m.probe == nil || m.probe.URL == "" || m.probe.Limit == 0 {
		return unprobed("what happens above the limit, since it uses up what the tenant has", "--probe-limit N, with "+probeURL), nil
	}
	got := map[int]int{}
	for range m.probe.Limit {
		status, _, err := m.probe.send(ctx, m.probe.URL, m.probe.Headers...)
		if err != nil {
			return []Finding{{Object: m.probe.URL, Says: "no answer: " + err.Error(), Fix: "see SV231"}}, nil
		}
		if status == http.StatusTooManyRequests {
			return nil, nil
		}
		got[status]++
	}
	return m.soften([]Finding{{
		Object: m.probe.URL, Says: fmt.Sprintf("none of %d requests was refused for being too many", m.probe.Limit), Evidence: fmt.Sprintf("answers by status: %v", got),
		Fix: "see that the tenant's plan has a limit below that and that it is enforced, not shadowed",
	}}), nil
}

// soften makes warnings of what the soft stage is there for: Sluice says what it would refuse, and refuses nothing.
func (m *Mesh) soften(found []Finding) []Finding {
	if m.values.Mesh.Stage == profile.Soft {
		for i := range found {
			found[i].Severity = Warn
		}
	}
	return found
}

// forged sends a tenant header with a value that nobody else uses, and looks for it in
// what comes back. Only an upstream that echoes shows it, so SV213 looks into the proxies too.
func forged(ctx context.Context, m *Mesh) ([]Finding, error) {
	if m.probe == nil || m.probe.URL == "" {
		return unprobed("there is nothing to ask for", probeURL), nil
	}
	var out []Finding
	targets := []string{m.probe.URL}
	if m.probe.Excluded == "" {
		out = unprobed("an excluded path", "--probe-excluded")
	} else {
		targets = append(targets, m.probe.Excluded)
	}
	mark := "probe-" + strings.ToLower(rand.Text())
	for _, at := range targets {
		_, answer, err := m.probe.send(ctx, at, append(slices.Clone(m.probe.Headers), tenant.Header+": "+mark)...)
		switch {
		case err != nil:
			out = append(out, Finding{Object: at, Says: "no answer: " + err.Error(), Fix: "see SV231"})
		case strings.Contains(answer, mark):
			out = append(out, Finding{
				Object: at, Says: "the upstream got " + tenant.Header + " as the caller wrote it", Evidence: "its value came back in the answer",
				Fix: "SV213 says which proxy does not remove it",
			})
		}
	}
	return out, nil
}
