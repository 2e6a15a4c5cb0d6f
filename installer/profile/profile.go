// Package profile holds the values that a mesh is rendered from: typed, with
// defaults in embedded profiles, overlaid by files and --set, and validated as
// a whole. Whatever differs between two meshes is a field here; whatever does
// not is a constant in the component that emits it.
package profile

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values is everything that one mesh is rendered from.
type Values struct {
	// Profile is the name of the embedded profile these values started from.
	Profile string `json:"profile,omitempty"`
	Istio   istio  `json:"istio"`
	Mesh    mesh   `json:"mesh"`
	Sluice  sluice `json:"sluice"`
	Addons  addons `json:"addons"`
	Images  images `json:"images"`
}

// istio is the control plane, its gateways and what it injects.
type istio struct {
	// Version is the image tag of istiod and the proxies, such as 1.31.0.
	Version string `json:"version"`
	// Namespace is the root namespace: istiod and mesh-wide policy live there.
	Namespace string `json:"namespace"`
	// Revision names this control plane, such as 1-31-0. Empty is the default revision.
	Revision string `json:"revision,omitempty"`
	// TrustDomain starts every SPIFFE id.
	TrustDomain string `json:"trustDomain"`
	// ClusterDomain ends every service's host name.
	ClusterDomain string   `json:"clusterDomain"`
	Pilot         scaled   `json:"pilot"`
	Ingress       Gateway  `json:"ingress"`
	Egress        Gateway  `json:"egress"`
	Sidecar       Resource `json:"sidecar"`
	// PilotEnv adds to istiod's environment.
	PilotEnv map[string]string `json:"pilotEnv,omitempty"`
	// Stats switches Istio's own metrics filter in every proxy.
	Stats bool `json:"stats"`
	// DataPlane is sidecar (the default when empty) or ambient. In ambient mode only ext_authz asks at services, through their waypoints.
	DataPlane string `json:"dataPlane,omitempty"`
	// Charts is a folder with Istio's charts, laid out as manifests/ of its source. Empty: those built in.
	Charts string `json:"charts,omitempty"`
	// NativeSidecars injects the proxy as an init container that keeps running.
	NativeSidecars bool `json:"nativeSidecars"`
}

// scaled is a deployment between two numbers of replicas.
type scaled struct {
	Min      int32    `json:"min"`
	Max      int32    `json:"max"`
	Resource Resource `json:"resources"`
}

// Gateway is a proxy at the edge of the mesh.
type Gateway struct {
	Enabled bool `json:"enabled"`
	scaled  `json:",inline"`
	// ServiceType is LoadBalancer, NodePort or ClusterIP.
	ServiceType string `json:"serviceType"`
	// Hosts are the host names that the gateway serves; ingress only.
	Hosts []string `json:"hosts,omitempty"`
	// TLSSecret names a kubernetes.io/tls Secret beside the gateway. Empty serves plain HTTP on port 80 only.
	TLSSecret string `json:"tlsSecret,omitempty"`
	// TrustedProxies is how many proxies of yours stand before the gateway, each of which adds the address of its caller to
	// x-forwarded-for; ingress only. 0 believes nobody.
	TrustedProxies uint32 `json:"trustedProxies,omitempty"`
}

// Resource is what a container asks for and may use.
type Resource struct {
	Requests amounts `json:"requests"`
	Limits   amounts `json:"limits"`
}

// amounts are CPU and memory.
type amounts struct {
	CPU    resource.Quantity `json:"cpu"`
	Memory resource.Quantity `json:"memory"`
}

// mesh is the application's namespace and the policy around it.
type mesh struct {
	// Namespace is where the services run.
	Namespace string `json:"namespace"`
	// Stage is soft or enforced. Soft is PERMISSIVE mTLS, policies in dry run, and sluiced's --stage soft;
	// authorization never fails open in either.
	Stage        Stage        `json:"stage"`
	Certificates certificates `json:"certificates"`
	// ServiceDefaults is what each service leaves out. Load writes it into the services.
	ServiceDefaults *Service  `json:"serviceDefaults,omitempty"`
	Services        []Service `json:"services"`
	// External are hosts outside the mesh that services may reach, through the egress gateway.
	External  []External `json:"external,omitempty"`
	Tracing   tracing    `json:"tracing"`
	AccessLog bool       `json:"accessLog"`
}

// Stage is how much of the policy refuses.
type Stage string

// The stages of a roll-out.
const (
	Soft     Stage = "soft"
	Enforced Stage = "enforced"
)

// certificates is the life of the workloads' certificates.
type certificates struct {
	Lifetime metav1.Duration `json:"lifetime"`
	// RenewAt is the part of the life that is left when a certificate is renewed, 0.02 to 0.98; the proxy adds or takes 0.01.
	RenewAt float64 `json:"renewAt"`
	// Critical is the time left at which a certificate that was not renewed is an alarm.
	Critical metav1.Duration `json:"critical"`
}

// Service is one workload of the application and how others may call it.
type Service struct {
	// Name is the Service, the Deployment's app label and the ServiceAccount.
	Name string `json:"name"`
	Port int32  `json:"port"`
	// Timeout bounds a request with all its tries. 0 is none.
	Timeout      metav1.Duration `json:"timeout"`
	Retries      Retries         `json:"retries"`
	LoadBalancer string          `json:"loadBalancer"` // LEAST_REQUEST or ROUND_ROBIN
	Pool         pool            `json:"pool"`
	Outlier      outlier         `json:"outlier"`
	// Callers are the services that may call this one, by name; "ingress" is the ingress gateway.
	Callers []string `json:"callers,omitempty"`
	// Paths are the prefixes that the ingress gateway routes to this service. Empty: not public.
	Paths []string `json:"paths,omitempty"`
	// Streams are path prefixes of long-lived streams: no timeout, no retry.
	Streams []string `json:"streams,omitempty"`
	// Canary splits traffic between versions when set.
	Canary *Canary `json:"canary,omitempty"`
	// Fault injects delays and aborts when set.
	Fault *Fault `json:"fault,omitempty"`
	// LocalLimit bounds what each pod of the service takes, without a call, when set.
	LocalLimit *LocalLimit `json:"localLimit,omitempty"`
}

// Retries is what a client's proxy does on a failure.
type Retries struct {
	// Attempts are the tries after the first one.
	Attempts int32 `json:"attempts"`
	// PerTry bounds each try; all of them fit into the service's timeout. 0: a try may take what is left of it.
	PerTry metav1.Duration `json:"perTry"`
	// On lists Envoy's conditions for requests that may safely be repeated (GET, HEAD, OPTIONS, PUT, DELETE).
	On []string `json:"retryOn"`
	// OnUnsafe lists the conditions for the rest (POST, PATCH): only those under which the upstream saw nothing.
	OnUnsafe []string `json:"retryOnUnsafe"`
}

// pool is the circuit breaker: what a client's proxy opens towards the service at most.
type pool struct {
	MaxConnections int32           `json:"maxConnections"`
	MaxPending     int32           `json:"maxPending"`
	MaxRequests    int32           `json:"maxRequests"`
	MaxRetries     int32           `json:"maxRetries"`
	ConnectTimeout metav1.Duration `json:"connectTimeout"`
	IdleTimeout    metav1.Duration `json:"idleTimeout"`
	// HTTP2 upgrades the connections between proxies.
	HTTP2 bool `json:"http2"`
}

// outlier is when a failing endpoint is taken out.
type outlier struct {
	Consecutive5xx int32           `json:"consecutive5xx"`
	Interval       metav1.Duration `json:"interval"`
	BaseEjection   metav1.Duration `json:"baseEjection"`
	MaxEjection    int32           `json:"maxEjectionPercent"`
}

// Canary is a second version that takes a share of the traffic.
type Canary struct {
	Stable string `json:"stable"` // version label
	Canary string `json:"canary"`
	Weight int32  `json:"weight"` // percent to the canary
}

// Fault is what is injected into a share of the requests.
type Fault struct {
	DelayPercent float64         `json:"delayPercent,omitempty"`
	Delay        metav1.Duration `json:"delay,omitempty"`
	AbortPercent float64         `json:"abortPercent,omitempty"`
	AbortStatus  int32           `json:"abortStatus,omitempty"`
	// Header limits the fault to requests that carry x-sluice-fault with this value. Empty: all requests.
	Header string `json:"header,omitempty"`
}

// LocalLimit is a token bucket in each proxy.
type LocalLimit struct {
	Tokens   uint32          `json:"tokens"`
	Interval metav1.Duration `json:"interval"`
}

// External is a host outside the mesh.
type External struct {
	Name string `json:"name"`
	Host string `json:"host"`
	Port int32  `json:"port"`
	// Protocol is TLS (passed through by SNI), HTTP, or HTTPS (the gateway originates TLS).
	Protocol string `json:"protocol"`
	// Callers are the services that may reach the host, by name.
	Callers []string `json:"callers,omitempty"`
	// Addresses are fixed endpoints in place of DNS, for hosts without a name that resolves.
	Addresses []string `json:"addresses,omitempty"`
}

// tracing is where spans go and how many.
type tracing struct {
	Enabled bool `json:"enabled"`
	// SamplePercent of requests, 0–100.
	SamplePercent float64 `json:"samplePercent"`
	// Service and Port are the OTLP/gRPC collector, a host in the registry.
	Service string `json:"service"`
	Port    int32  `json:"port"`
}

// sluice is the server and which of its doors the proxies ask.
type sluice struct {
	Namespace string `json:"namespace"`
	// Values overlays the values of Sluice's own chart.
	Values map[string]any `json:"values,omitempty"`
	Doors  Doors          `json:"doors"`
	// ExcludedPaths are answered without asking Sluice: exact paths, or prefixes that end in '*'.
	ExcludedPaths []string `json:"excludedPaths,omitempty"`
}

// Doors are the ways in which proxies ask.
type Doors struct {
	ExtAuthz  ExtAuthz  `json:"extAuthz"`
	AccessLog bool      `json:"accessLog"`
	ExtProc   extProc   `json:"extProc"`
	RateLimit rateLimit `json:"rateLimit"`
}

// ExtAuthz is the default door: one call that authorizes, limits and reserves.
type ExtAuthz struct {
	Enabled bool            `json:"enabled"`
	Timeout metav1.Duration `json:"timeout"`
	// BodyBytes of a request are sent along; 0 sends none.
	BodyBytes uint32 `json:"bodyBytes,omitempty"`
	// Inner asks at every service's sidecar too, not only at the gateway.
	Inner bool `json:"inner"`
}

// extProc is the door that can end a stream in its middle.
type extProc struct {
	Enabled bool            `json:"enabled"`
	Timeout metav1.Duration `json:"timeout"`
	// Services are those whose sidecars attach it, by name.
	Services []string `json:"services,omitempty"`
}

// rateLimit is the door for descriptors.
type rateLimit struct {
	Enabled bool            `json:"enabled"`
	Timeout metav1.Duration `json:"timeout"`
	Domain  string          `json:"domain"`
	// Services are those whose sidecars attach it; "ingress" is the ingress gateway.
	Services []string `json:"services,omitempty"`
	// Descriptors are what each request is asked about, in Envoy's order.
	Descriptors []Descriptor `json:"descriptors,omitempty"`
}

// Descriptor is a list of entries.
type Descriptor []Entry

// Entry is one key of a descriptor: exactly one of Header, Path, Method, Value is set.
type Entry struct {
	Key    string `json:"key"`
	Header string `json:"header,omitempty"`
	Path   bool   `json:"path,omitempty"`
	Method bool   `json:"method,omitempty"`
	Value  string `json:"value,omitempty"`
}

// addons are the consoles beside the mesh.
type addons struct {
	Namespace  string `json:"namespace"`
	Kiali      Addon  `json:"kiali"`
	Jaeger     Addon  `json:"jaeger"`
	Prometheus Addon  `json:"prometheus"`
	Grafana    Addon  `json:"grafana"`
	// Analyze looks at the cluster's objects on a schedule.
	Analyze scheduled `json:"analyze"`
}

// scheduled is something that runs from time to time.
type scheduled struct {
	Addon `json:",inline"`
	// Schedule is cron's: minute, hour, day of the month, month, day of the week.
	Schedule string `json:"schedule"`
}

// Addon is one console.
type Addon struct {
	Enabled bool `json:"enabled"`
	// Image with its version; never 'latest'.
	Image string `json:"image"`
}

// Images redirects every image of the mesh to another registry.
type images struct {
	// Hub is Istio's, such as docker.io/istio.
	Hub string `json:"hub"`
	// Registry, if set, replaces the registry of all other images.
	Registry string `json:"registry,omitempty"`
	// PullSecret names a Secret in each namespace that pulls images.
	PullSecret string `json:"pullSecret,omitempty"`
}
