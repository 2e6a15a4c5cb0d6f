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
		id := "spiffe://" + principal(v, p)
		c.Peers = append(c.Peers, id)
		if p.gateway {
			c.Edge = append(c.Edge, id)
		}
	}
	return c
}

// principal is an identity as an AuthorizationPolicy spells it.
func principal(v *profile.Values, p place) string {
	account := p.name
	if p.gateway {
		account = ingressName
	}
	return v.Istio.TrustDomain + "/ns/" + p.namespace + "/sa/" + account
}
