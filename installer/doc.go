// Package installer is the folder of what lays a mesh down and proves that it
// acts. It holds no code itself. Read in this order:
//
//   - profile: the values, typed and validated; nothing else decides a number
//   - wiring: how Envoy asks Sluice, as one model; EnvoyFilters and providers
//   - lint: refuses wiring in which a later filter undoes a decision
//   - render: components; values in, Kubernetes objects out, in order
//   - cluster: applies, waits, compares, prunes and removes objects
//   - check: preflight, verify and doctor, one check a file
//   - upgrade: what stands in the way of another version of Istio
//   - forward, console, support: ports of pods, consoles on this machine, what to send to who helps
//   - bundle: a mesh in one file
//
// Only packages below this folder may import Kubernetes, Helm, Istio and Flux.
package installer
