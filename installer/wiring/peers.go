package wiring

import "github.com/voicecore-ai/sluice/installer/profile"

// Callers are the identities that may use Sluice's doors: doors.peers and doors.edgePeers
// of the chart. sluiced itself ends the mutual TLS of its doors and holds callers against
// that list, past its sidecar, so no AuthorizationPolicy could do it.
type Callers struct {
	// Peers are the SPIFFE ids of all proxies that ask, the ingress gateway first.
	Peers []string
	// Edge are those of Peers at which requests begin; the others must bring a tenant token.
	Edge []string
}

// Peers lists who asks.
func Peers(v *profile.Values) Callers {
	var c Callers
	for _, p := range places(v) {
		if !p.asks() {
			continue
		}
		id := "spiffe://" + Principal(v, p.name)
		c.Peers = append(c.Peers, id)
		if p.gateway {
			c.Edge = append(c.Edge, id)
		}
	}
	return c
}
