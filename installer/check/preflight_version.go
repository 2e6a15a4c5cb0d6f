package check

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

var versionChecks = []Check{
	{Code: "SP101", Title: "Kubernetes is of a version that Istio supports", Severity: Fail, run: kubernetesVersion},
	{Code: "SP102", Title: "Istio is of a version that is patched", Severity: Fail, run: istioVersion},
	{Code: "SP103", Title: "this machine's clock agrees with the API server's", Severity: Warn, run: clockSkew},
}

// The minor versions of Kubernetes 1 that Istio 1.31 supports
// (https://istio.io/latest/news/releases/1.31.x/announcing-1.31/).
const (
	oldestKubernetes = 32
	newestKubernetes = 36
)

func kubernetesVersion(ctx context.Context, m *Mesh) ([]Finding, error) {
	version, _, err := m.reads.server(ctx)
	if err != nil {
		return nil, err
	}
	f := Finding{Object: "the API server", Evidence: version}
	v, ok := parseVersion(version)
	switch {
	case !ok:
		f.Severity, f.Says = Warn, "its version can't be read"
	case v.major != 1 || v.minor < oldestKubernetes:
		f.Says = fmt.Sprintf("Istio %s needs Kubernetes 1.%d at least", m.values.Istio.Version, oldestKubernetes)
		f.Fix = "upgrade the cluster first"
	case v.minor > newestKubernetes:
		f.Severity, f.Says = Warn, fmt.Sprintf("it is newer than 1.%d, the newest that Istio was tested with", newestKubernetes)
		f.Fix = "see whether a newer Istio names this version"
	default:
		return nil, nil
	}
	return []Finding{f}, nil
}

func istioVersion(_ context.Context, m *Mesh) ([]Finding, error) {
	return IstioMends(m.values.Istio.Version), nil
}

// IstioMends says which mends a version of Istio lacks, as SP102 does.
func IstioMends(version string) []Finding {
	f, bad := unpatched(version, istioReleases)
	if !bad {
		return nil
	}
	f.Object, f.Doc = "istio.version", anchor("SP102")
	f.Fix = "--set istio.version=" + f.Fix
	return []Finding{f}
}

// skewed is what the clocks may differ by: certificates of istiod are valid from two minutes ago.
const skewed = time.Minute

func clockSkew(ctx context.Context, m *Mesh) ([]Finding, error) {
	_, there, err := m.reads.server(ctx)
	if err != nil || there.IsZero() {
		return nil, err
	}
	off := m.now.Sub(there).Abs()
	if off < skewed {
		return nil, nil
	}
	return []Finding{{
		Object: "this machine", Evidence: fmt.Sprintf("here %s, at the API server %s", m.now.UTC().Format(time.RFC3339), there.UTC().Format(time.RFC3339)),
		Says: fmt.Sprintf("its clock is %s off, so what is said of certificates is too", off.Round(time.Second)), Fix: "synchronize the clock (timedatectl set-ntp true)",
	}}, nil
}

// askVersion reads who answers and what time it is there.
func askVersion(c *http.Client, request *http.Request) (version string, now time.Time, err error) {
	response, err := c.Do(request)
	if err != nil {
		return "", now, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	if err != nil {
		return "", now, err
	}
	var v struct{ GitVersion string }
	if err := json.Unmarshal(body, &v); err != nil || v.GitVersion == "" {
		return "", now, fmt.Errorf("/version answers %s and no version", response.Status)
	}
	// A proxy may have taken the date away; then nothing is said of it.
	now, _ = http.ParseTime(response.Header.Get("Date"))
	return v.GitVersion, now, nil
}

// semver is the three numbers of a version.
type semver struct{ major, minor, patch int }

// parseVersion reads v1.31.4, 1.31.4-dev, 1.31-alpha and v1.33.2+k3s1.
func parseVersion(text string) (v semver, ok bool) {
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "v"), "+")
	text, _, _ = strings.Cut(text, "-")
	for i, part := range strings.SplitN(text, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return semver{}, false
		}
		*[]*int{&v.major, &v.minor, &v.patch}[i] = n
	}
	return v, strings.Contains(text, ".")
}

func (v semver) String() string { return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch) }

// serverOf asks the API server who it is and what time it is there.
func serverOf(config *rest.Config) func(context.Context) (string, time.Time, error) {
	return func(ctx context.Context) (string, time.Time, error) {
		c, err := rest.HTTPClientFor(config)
		if err != nil {
			return "", time.Time{}, err
		}
		base, _, err := rest.DefaultServerUrlFor(config)
		if err != nil {
			return "", time.Time{}, err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/version").String(), http.NoBody)
		if err != nil {
			return "", time.Time{}, err
		}
		return askVersion(c, request)
	}
}
