package profile

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxLifetime is what istiod signs at most; Load refuses more rather than raise it.
	maxLifetime = 90 * 24 * time.Hour
	// Jitter is what a proxy adds to RenewAt, or takes from it, so that not all renew at once.
	Jitter = 0.01
	// Ingress is the caller that stands for the ingress gateway.
	Ingress = "ingress"
	// Ambient is the data plane without sidecars.
	Ambient = "ambient"
)

// Validate finds everything that is wrong with values, in the order of the
// fields. What Load returned has none; values that were changed since may.
func (v *Values) Validate() Problems {
	var p validator
	p.istio(&v.Istio)
	p.mesh(&v.Mesh)
	p.unless(v.Mesh.Namespace != v.Istio.Namespace, "mesh.namespace", "is istio.namespace", "one of its own: policy there holds for the whole mesh")
	p.unless(v.Istio.Ingress.TrustedProxies == 0 || v.Sluice.Doors.ExtAuthz.Enabled, "istio.ingress.trustedProxies", "is in force where the gateway asks Sluice, and sluice.doors.extAuthz is off",
		"0, or turn that door on")
	p.unless(len(v.Mesh.External) == 0 || v.Istio.Egress.Enabled, "mesh.external", "lists hosts, and there is no egress gateway to reach them through",
		"istio.egress.enabled, or an empty list")
	p.sluice(v)
	p.ambient(v)
	p.addons(&v.Addons)
	p.images(&v.Images)
	return p.problems
}

// validator collects problems. A check is one line where it can be: unless(ok, path, what, want).
type validator struct{ problems Problems }

func (p *validator) unless(ok bool, path, what, want string) {
	if !ok {
		p.problems = append(p.problems, Problem{Path: path, What: what, Want: want})
	}
}

var (
	version     = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)
	environment = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	cron        = regexp.MustCompile(`^([0-9A-Za-z*,/-]+ ){4}[0-9A-Za-z*,/-]+$`)
	hub         = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?(/[a-z0-9._-]+)*$`)
)

func (p *validator) istio(i *istio) {
	p.unless(version.MatchString(i.Version), "istio.version", quoted(i.Version)+" is not a version of Istio's images",
		"three numbers, such as 1.31.4; a moving tag would change the mesh without anybody's doing")
	p.label("istio.namespace", i.Namespace)
	p.unless(i.Revision == "" || i.Revision != "default" && len(validation.IsDNS1123Label(i.Revision)) == 0, "istio.revision",
		quoted(i.Revision)+" can't name a revision", "lower-case letters, digits and '-', such as 1-31-4; empty for the default revision")
	p.domain("istio.trustDomain", i.TrustDomain)
	p.domain("istio.clusterDomain", i.ClusterDomain)
	if i.DataPlane != "" {
		p.oneOf("istio.dataPlane", i.DataPlane, []string{"sidecar", Ambient})
	}
	p.scaled("istio.pilot", i.Pilot)
	p.gateway("istio.ingress", i.Ingress)
	p.gateway("istio.egress", i.Egress)
	p.unless(len(i.Egress.Hosts) == 0 && i.Egress.TLSSecret == "" && i.Egress.TrustedProxies == 0, "istio.egress", "has hosts, a tlsSecret or trustedProxies of its own",
		"none: what leaves the mesh is listed in mesh.external")
	p.unless(i.Ingress.TrustedProxies <= mostProxies, "istio.ingress.trustedProxies", fmt.Sprintf("%d is more than anybody has", i.Ingress.TrustedProxies),
		fmt.Sprintf("the number of proxies of yours before the gateway, %d at most", mostProxies))
	p.resource("istio.sidecar", i.Sidecar)
	for _, name := range sortedKeys(i.PilotEnv) {
		path := "istio.pilotEnv." + name
		p.unless(environment.MatchString(name), path, "is not a name of istiod's environment", "capital letters, digits and '_'")
		if field, ours := pilotOwn[name]; ours {
			p.unless(false, path, "is set by another field", "set "+field)
		}
	}
}

// mostProxies bounds a number that is a mistake when it is large: each one more lets clients write one address more.
const mostProxies = 5

// pilotOwn are the variables of istiod that values have fields for.
var pilotOwn = map[string]string{
	"DEFAULT_WORKLOAD_CERT_TTL": "mesh.certificates.lifetime",
	"MAX_WORKLOAD_CERT_TTL":     "mesh.certificates.lifetime",
	"ENABLE_NATIVE_SIDECARS":    "istio.nativeSidecars",
	"REVISION":                  "istio.revision",
}

func (p *validator) scaled(path string, s scaled) {
	p.unless(s.Min >= 1, path+".min", fmt.Sprintf("%d is too few replicas", s.Min), "1 or more; 2 or more survive the loss of a node")
	p.unless(s.Max >= s.Min, path+".max", fmt.Sprintf("%d is less than min, %d", s.Max, s.Min), "min or more; equal to it for a fixed number")
	p.resource(path+".resources", s.Resource)
}

func (p *validator) resource(path string, r Resource) {
	for _, a := range []struct {
		name          string
		request, most resource.Quantity
	}{{"cpu", r.Requests.CPU, r.Limits.CPU}, {"memory", r.Requests.Memory, r.Limits.Memory}} {
		request := path + ".requests." + a.name
		p.unless(a.request.Sign() > 0, request, a.request.String()+" is nothing", "what the container needs at least")
		p.unless(a.most.Sign() > 0, path+".limits."+a.name, a.most.String()+" is nothing", "what the container may use at most")
		p.unless(a.request.Cmp(a.most) <= 0, request, a.request.String()+" is more than the limit, "+a.most.String(), "at most the limit")
	}
}

var serviceTypes = []string{"LoadBalancer", "NodePort", "ClusterIP"}

func (p *validator) gateway(path string, g Gateway) {
	if !g.Enabled {
		return
	}
	p.scaled(path, g.scaled)
	p.oneOf(path+".serviceType", g.ServiceType, serviceTypes)
	for i, h := range g.Hosts {
		p.host(at(path+".hosts", i), h, true)
	}
	if g.TLSSecret != "" {
		p.subdomain(path+".tlsSecret", g.TLSSecret, "a Secret")
	}
}

func (p *validator) mesh(m *mesh) {
	p.label("mesh.namespace", m.Namespace)
	p.oneOf("mesh.stage", string(m.Stage), []string{string(Soft), string(Enforced)})
	p.certificates(m.Certificates)
	p.services(m.Services)
	for i, e := range m.External {
		path := at("mesh.external", i)
		p.label(path+".name", e.Name)
		p.host(path+".host", e.Host, e.Protocol == "TLS")
		p.port(path+".port", e.Port)
		p.oneOf(path+".protocol", e.Protocol, []string{"TLS", "HTTP", "HTTPS"})
		for k, a := range e.Addresses {
			_, err := netip.ParseAddr(a)
			p.unless(err == nil, at(path+".addresses", k), quoted(a)+" is not an IP address", "such as 203.0.113.7")
		}
		for k, c := range e.Callers {
			known := slices.ContainsFunc(m.Services, func(s Service) bool { return s.Name == c })
			p.unless(known, at(path+".callers", k), "there is no service "+quoted(c), "a name under mesh.services")
		}
	}
	p.unless(m.Tracing.SamplePercent >= 0 && m.Tracing.SamplePercent <= 100, "mesh.tracing.samplePercent",
		fmt.Sprint(m.Tracing.SamplePercent)+" is no share of the requests", "0 to 100")
	if m.Tracing.Enabled {
		p.host("mesh.tracing.service", m.Tracing.Service, false)
		p.port("mesh.tracing.port", m.Tracing.Port)
	}
}

func (p *validator) certificates(c certificates) {
	const path = "mesh.certificates"
	life := c.Lifetime.Duration
	p.unless(life >= 5*time.Minute && life <= maxLifetime, path+".lifetime", life.String()+" is not what istiod signs",
		"5m to 2160h (90 days): istiod refuses longer ones, and the proxy stays without a certificate")
	ratio := c.RenewAt >= 2*Jitter && c.RenewAt <= 1-2*Jitter
	p.unless(ratio, path+".renewAt", fmt.Sprint(c.RenewAt)+" is not a part of the life that can be kept to",
		"0.02 to 0.98: the proxy adds or takes 0.01 of the life, so that not all renew at once")
	if earliest := time.Duration(float64(life) * (c.RenewAt - Jitter)); ratio {
		p.unless(c.Critical.Duration > 0 && c.Critical.Duration < earliest, path+".critical",
			c.Critical.Duration.String()+" would be an alarm about healthy certificates, or none",
			"more than 0 and less than "+earliest.Round(time.Second).String()+", when the last one is renewed")
	}
}

// retryConditions are Envoy's for HTTP and gRPC.
var retryConditions = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx", "refused-stream",
	"retriable-status-codes", "retriable-headers", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

// unseen are the conditions under which the upstream saw nothing of the request.
var unseen = []string{"reset-before-request", "connect-failure", "refused-stream", "http3-post-connect-failure"}

func (p *validator) services(services []Service) {
	paths := map[string]string{}
	callers := []string{Ingress}
	for _, s := range services {
		callers = append(callers, s.Name)
	}
	for i := range services {
		s, path := &services[i], at("mesh.services", i)
		p.label(path+".name", s.Name)
		p.unless(s.Name != Ingress, path+".name", `"ingress" stands for the ingress gateway`, "another name")
		p.port(path+".port", s.Port)
		p.retries(path, s)
		p.oneOf(path+".loadBalancer", s.LoadBalancer, []string{"LEAST_REQUEST", "ROUND_ROBIN"})
		p.pool(path+".pool", s.Pool)
		p.outlier(path+".outlier", s.Outlier)
		for k, c := range s.Callers {
			p.unless(slices.Contains(callers, c), at(path+".callers", k), "there is no service "+quoted(c), "one of "+strings.Join(callers, ", "))
		}
		for k, prefix := range s.Paths {
			p.prefix(at(path+".paths", k), prefix)
			p.unless(paths[prefix] == "", at(path+".paths", k), quoted(prefix)+" goes to "+paths[prefix]+" already", "each prefix to one service")
			paths[prefix] = s.Name
		}
		p.unless(len(s.Paths) == 0 || slices.Contains(s.Callers, Ingress), path+".callers",
			"the ingress gateway routes to the service and may not call it", "ingress among the callers, or no paths")
		for k, prefix := range s.Streams {
			p.prefix(at(path+".streams", k), prefix)
		}
		p.options(path, s)
	}
}

func (p *validator) retries(path string, s *Service) {
	r := s.Retries
	p.unless(s.Timeout.Duration >= 0, path+".timeout", s.Timeout.Duration.String()+" is negative", "0s for none, or how long a request may take with all its tries")
	p.unless(r.Attempts >= 0 && r.Attempts <= 10, path+".retries.attempts", fmt.Sprintf("%d retries", r.Attempts), "0 to 10, after the first try")
	tries := time.Duration(r.Attempts + 1)
	what := fmt.Sprintf("%d tries of %v do not fit into the timeout, %v: the last would be cut", tries, r.PerTry.Duration, s.Timeout.Duration)
	p.unless(r.PerTry.Duration >= 0 && (s.Timeout.Duration <= 0 || r.PerTry.Duration*tries <= s.Timeout.Duration), path+".retries.perTry", what,
		"at most "+(s.Timeout.Duration/tries).String()+", or 0s for no bound on a single try")
	for k, c := range r.On {
		p.oneOf(at(path+".retries.retryOn", k), c, retryConditions)
	}
	for k, c := range r.OnUnsafe {
		p.unless(slices.Contains(unseen, c), at(path+".retries.retryOnUnsafe", k), quoted(c)+" may repeat a POST that the service has carried out",
			"one of "+strings.Join(unseen, ", "))
	}
}

func (p *validator) pool(path string, o pool) {
	for _, n := range []struct {
		name string
		n    int32
	}{{"maxConnections", o.MaxConnections}, {"maxPending", o.MaxPending}, {"maxRequests", o.MaxRequests}, {"maxRetries", o.MaxRetries}} {
		p.unless(n.n >= 1, path+"."+n.name, fmt.Sprintf("%d lets nothing through", n.n), "1 or more")
	}
	p.positive(path+".connectTimeout", o.ConnectTimeout)
	p.positive(path+".idleTimeout", o.IdleTimeout)
}

func (p *validator) outlier(path string, o outlier) {
	p.unless(o.Consecutive5xx >= 1, path+".consecutive5xx", fmt.Sprintf("%d failures", o.Consecutive5xx), "1 or more failures in a row take an endpoint out")
	p.positive(path+".interval", o.Interval)
	p.positive(path+".baseEjection", o.BaseEjection)
	p.unless(o.MaxEjection >= 1 && o.MaxEjection <= 100, path+".maxEjectionPercent", fmt.Sprintf("%d is no share of the endpoints", o.MaxEjection), "1 to 100")
}

// options are what a service may have.
func (p *validator) options(path string, s *Service) {
	if c := s.Canary; c != nil {
		path := path + ".canary"
		for _, v := range []struct{ name, label string }{{"stable", c.Stable}, {"canary", c.Canary}} {
			p.unless(v.label != "" && len(validation.IsValidLabelValue(v.label)) == 0, path+"."+v.name, quoted(v.label)+" is not a value of the label version", "such as v1")
		}
		p.unless(c.Stable != c.Canary, path, "both versions are "+quoted(c.Stable), "two versions")
		p.unless(c.Weight >= 0 && c.Weight <= 100, path+".weight", fmt.Sprintf("%d is no share of the requests", c.Weight), "0 to 100, the percent that the canary gets")
	}
	if f := s.Fault; f != nil {
		path := path + ".fault"
		p.percent(path+".delayPercent", f.DelayPercent)
		p.percent(path+".abortPercent", f.AbortPercent)
		p.unless(f.DelayPercent > 0 || f.AbortPercent > 0, path, "injects nothing", "a delayPercent or an abortPercent")
		if f.DelayPercent > 0 {
			p.positive(path+".delay", f.Delay)
		}
		p.unless(f.AbortPercent == 0 || f.AbortStatus >= 200 && f.AbortStatus <= 599, path+".abortStatus", fmt.Sprintf("%d is no status of HTTP", f.AbortStatus), "200 to 599, such as 503")
	}
	if l := s.LocalLimit; l != nil {
		p.unless(l.Tokens >= 1, path+".localLimit.tokens", "0 lets nothing through", "1 or more for each interval")
		p.unless(l.Interval.Duration >= 50*time.Millisecond, path+".localLimit.interval", l.Interval.Duration.String()+" is shorter than Envoy fills a bucket", "50ms or more")
	}
}

func (p *validator) sluice(v *Values) {
	s := &v.Sluice
	p.label("sluice.namespace", s.Namespace)
	p.unless(s.Namespace != v.Mesh.Namespace, "sluice.namespace", "is the namespace of the services", "one of its own: no policy that asks Sluice may select Sluice")
	_, staged := s.Values["stage"]
	p.unless(!staged, "sluice.values.stage", "is not Sluice's own", "mesh.stage, which is one for the whole mesh")
	p.replicas(s.Values)
	a := s.Doors.ExtAuthz
	if a.Enabled {
		p.positive("sluice.doors.extAuthz.timeout", a.Timeout)
	}
	var known, withIngress []string
	if v.Istio.Ingress.Enabled {
		withIngress = append(withIngress, Ingress)
	}
	for i, m := range v.Mesh.Services {
		known = append(known, m.Name)
		p.unless(!a.Enabled || a.BodyBytes == 0 || len(m.Streams) == 0, at("mesh.services", i)+".streams",
			"hang where Envoy waits for the body before it asks Sluice", "sluice.doors.extAuthz.bodyBytes: 0, or no streams")
	}
	withIngress = append(withIngress, known...)
	x := s.Doors.ExtProc
	p.door("sluice.doors.extProc", x.Enabled, x.Timeout, x.Services, known)
	r := s.Doors.RateLimit
	p.door("sluice.doors.rateLimit", r.Enabled, r.Timeout, r.Services, withIngress)
	if r.Enabled {
		p.unless(r.Domain != "", "sluice.doors.rateLimit.domain", "is missing", "the domain that Sluice's limits are listed under")
		p.unless(len(r.Descriptors) > 0, "sluice.doors.rateLimit.descriptors", "there is none", "what each request is asked about: a request without a descriptor isn't")
	}
	for i, d := range r.Descriptors {
		p.unless(len(d) > 0, at("sluice.doors.rateLimit.descriptors", i), "has no entry", "one or more")
		for k, e := range d {
			path := at(at("sluice.doors.rateLimit.descriptors", i), k)
			p.unless(e.Key != "", path+".key", "is missing", "the entry's key")
			sources := 0
			for _, set := range []bool{e.Header != "", e.Path, e.Method, e.Value != ""} {
				if set {
					sources++
				}
			}
			p.unless(sources == 1, path, fmt.Sprintf("the entry %q has %d sources", e.Key, sources), "exactly one of header, path, method and value")
		}
	}
	for i, path := range s.ExcludedPaths {
		inner := strings.TrimSuffix(path, "*")
		p.unless(strings.HasPrefix(path, "/") && inner != "/" && !strings.ContainsAny(inner, "*?#"), at("sluice.excludedPaths", i),
			quoted(path)+" can't be left out", "a path such as /healthz, or a prefix such as /public/*; never all of them")
	}
}

// replicas wants a store that they share, before the chart's schema says so in its own words.
func (p *validator) replicas(chart map[string]any) {
	store, _ := chart["store"].(map[string]any)
	if store["type"] == "redis" {
		return
	}
	const what = "on the embedded store each replica counts for itself, and together they admit each limit as often"
	const shared = ", or a Redis that they share: sluice.values.store (docs/guide/mesh-install.md#more-than-one-sluiced)"
	n, err := strconv.Atoi(fmt.Sprint(chart["replicas"]))
	p.unless(err != nil || n <= 1, "sluice.values.replicas", fmt.Sprintf("%d: %s", n, what), "1"+shared)
	scaling, _ := chart["autoscaling"].(map[string]any)
	p.unless(scaling["enabled"] != true, "sluice.values.autoscaling.enabled", what, "false"+shared)
}

// ambient is what a mesh without sidecars can't have: istiod applies no EnvoyFilter to waypoints.
func (p *validator) ambient(v *Values) {
	if v.Istio.DataPlane != Ambient {
		return
	}
	const what, want = "needs sidecars: istiod applies no EnvoyFilter to waypoints", "off in ambient mode, where ext_authz alone asks"
	p.unless(!v.Sluice.Doors.ExtProc.Enabled, "sluice.doors.extProc", what, want)
	r := v.Sluice.Doors.RateLimit
	p.unless(!r.Enabled || !slices.ContainsFunc(r.Services, func(s string) bool { return s != Ingress }), "sluice.doors.rateLimit.services", what, "only ingress in ambient mode")
	for i, s := range v.Mesh.Services {
		p.unless(s.LocalLimit == nil, at("mesh.services", i)+".localLimit", what, want)
	}
}

func (p *validator) door(path string, enabled bool, timeout metav1.Duration, services, known []string) {
	if enabled {
		p.positive(path+".timeout", timeout)
		p.unless(len(services) > 0, path+".services", "is on at no service", "the services that attach it")
	}
	for i, s := range services {
		p.unless(slices.Contains(known, s), at(path+".services", i), quoted(s)+" can't attach it", "one of "+strings.Join(known, ", "))
	}
}

func (p *validator) addons(a *addons) {
	p.label("addons.namespace", a.Namespace)
	for _, c := range []struct {
		name string
		Addon
	}{{"kiali", a.Kiali}, {"jaeger", a.Jaeger}, {"prometheus", a.Prometheus}, {"grafana", a.Grafana}} {
		if c.Enabled {
			p.image("addons."+c.name+".image", c.Image)
		}
	}
	if a.Analyze.Enabled {
		p.image("addons.analyze.image", a.Analyze.Image)
		p.unless(cron.MatchString(a.Analyze.Schedule), "addons.analyze.schedule", quoted(a.Analyze.Schedule)+" is not a schedule",
			"cron's five fields, such as 17 4 * * * for every day at 4:17")
	}
}

// image wants a version: what 'latest' is, nobody can say afterwards.
func (p *validator) image(path, image string) {
	name, digest, pinned := strings.Cut(image, "@sha256:")
	tag := ""
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, tag = name[:i], name[i+1:]
	}
	ok := name != "" && tag != "latest" && (tag != "" || pinned) && (!pinned || len(digest) == 64)
	p.unless(ok, path, quoted(image)+" names no fixed image", "a name with a version or a digest, such as docker.io/grafana/grafana:12.0.1, never 'latest'")
}

func (p *validator) images(i *images) {
	const want = "a registry and a path without scheme, tag or final slash, such as docker.io/istio"
	p.unless(hub.MatchString(i.Hub), "images.hub", quoted(i.Hub)+" is no place of images", want)
	p.unless(i.Registry == "" || hub.MatchString(i.Registry), "images.registry", quoted(i.Registry)+" is no place of images", want)
	if i.PullSecret != "" {
		p.subdomain("images.pullSecret", i.PullSecret, "a Secret")
	}
}

func at(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
