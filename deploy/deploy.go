// Package deploy embeds the Envoy configurations that the demo, the tests and
// the benchmarks run, so that what is documented is what is proved. Each is a
// text with ${NAME} placeholders, explained at its top.
package deploy

import _ "embed" // the configurations

// The configurations.
var (
	//go:embed envoy/demo.yaml
	Demo string // the default wiring: ext_authz and the access log
	//go:embed envoy/sidecar.yaml
	Sidecar string // the default wiring inside a mesh, where Envoy strips nothing itself
	//go:embed envoy/rls.yaml
	RLS string // the drop-in for descriptors: the ratelimit filter
	//go:embed envoy/extproc.yaml
	ExtProc string // ext_proc, request and response headers
	//go:embed envoy/mtls.yaml
	MTLS string // not a whole configuration: what the cluster of sluiced gets for mTLS
	//go:embed envoy/mesh.yaml
	Mesh string // a service's Envoy in a mesh, mTLS in and out, and the tenant from hop to hop
	//go:embed envoy/streams.yaml
	Streams string // ext_proc to the end of each request: WebSocket, server-sent events, gRPC streams
)
