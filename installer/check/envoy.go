package check

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The parts of Envoy's configuration that checks look at. It is read loosely: a
// proxy of Istio's runs types that are not known here.
type (
	listener struct {
		Name     string        `json:"name"`
		Chains   []filterChain `json:"filter_chains"`
		Fallback *filterChain  `json:"default_filter_chain"`
		rejected string        // why Envoy refused the newest version of it
	}
	filterChain struct {
		Name  string `json:"name"`
		Match struct {
			Port      *int   `json:"destination_port"`
			Transport string `json:"transport_protocol"`
		} `json:"filter_chain_match"`
		Socket  *socket `json:"transport_socket"`
		Filters []struct {
			Name   string  `json:"name"`
			Config manager `json:"typed_config"`
		} `json:"filters"`
	}
	// manager is an HTTP connection manager, or the TCP proxy, of which only the cluster is read.
	manager struct {
		Type    string           `json:"@type"`
		Filters []httpFilter     `json:"http_filters"`
		Early   []map[string]any `json:"early_header_mutation_extensions"`
		Logs    []struct {
			Config map[string]any `json:"typed_config"`
		} `json:"access_log"`
		Cluster any `json:"cluster"`
	}
	httpFilter struct {
		Name   string         `json:"name"`
		Config map[string]any `json:"typed_config"`
	}
	socket struct {
		Name string `json:"name"`
	}
	envoyCluster struct {
		Name    string  `json:"name"`
		Socket  *socket `json:"transport_socket"`
		Matches []struct {
			Match  map[string]any `json:"match"`
			Socket *socket        `json:"transport_socket"`
		} `json:"transport_socket_matches"`
	}
)

// tls reports whether a transport socket is one of TLS; none is plain text.
func (s *socket) tls() bool { return s != nil && strings.Contains(s.Name, "tls") }

// mutual reports whether a cluster speaks TLS to endpoints of the mesh.
func (c *envoyCluster) mutual() bool {
	for _, m := range c.Matches {
		if m.Match["tlsMode"] == "istio" {
			return m.Socket.tls()
		}
	}
	return c.Socket.tls()
}

// debugPrefix is what protobuf puts before a message to say that it is not for programs; it varies.
var debugPrefix = regexp.MustCompile(`^goo\.gle/\S+[\s:]*`)

func (p *proxy) readListeners(body []byte) error {
	type state struct {
		Listener listener `json:"listener"`
	}
	var dump struct {
		Configs []struct {
			Name   string `json:"name"`
			Active *state `json:"active_state"`
			Error  *struct {
				Details string `json:"details"`
			} `json:"error_state"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(body, &dump); err != nil {
		return err
	}
	for _, c := range dump.Configs {
		l := listener{Name: c.Name}
		if c.Active != nil {
			l = c.Active.Listener
			l.Name = c.Name
		}
		if c.Error != nil {
			l.rejected = debugPrefix.ReplaceAllString(c.Error.Details, "")
		}
		if l.Name != "" { // Envoy tells a refusal a second time, without the name
			p.listeners = append(p.listeners, l)
		}
	}
	return nil
}

func (p *proxy) readClusters(body []byte) error {
	var dump struct {
		Configs []struct {
			Cluster envoyCluster `json:"cluster"`
		} `json:"configs"`
	}
	if err := json.Unmarshal(body, &dump); err != nil {
		return err
	}
	p.clusters = map[string]*envoyCluster{}
	for i := range dump.Configs {
		c := &dump.Configs[i].Cluster
		p.clusters[c.Name] = c
	}
	return nil
}

// inbound is where a sidecar takes what is sent to its pod.
const inbound = "virtualInbound"

// chains are the filter chains of a listener, its fallback too.
func (l *listener) chains() []filterChain {
	if l.Fallback == nil {
		return l.Chains
	}
	return append(slices.Clone(l.Chains), *l.Fallback)
}

// http is the chain's HTTP connection manager; nil if it has none.
func (c *filterChain) http() *manager {
	for i := range c.Filters {
		if strings.HasSuffix(c.Filters[i].Config.Type, ".HttpConnectionManager") {
			return &c.Filters[i].Config
		}
	}
	return nil
}

// blackhole reports whether the chain only drops what it takes.
func (c *filterChain) blackhole() bool {
	for i := range c.Filters {
		if c.Filters[i].Config.Cluster == "BlackHoleCluster" {
			return true
		}
	}
	return false
}

// placed is an HTTP connection manager and where it is.
type placed struct {
	*manager
	where string
}

// managers are the HTTP connection managers in which requests come in: of a
// gateway all, of a sidecar those of the inbound side.
func (p *proxy) managers() (out []placed) {
	for i := range p.listeners {
		l := &p.listeners[i]
		if !p.gateway && l.Name != inbound {
			continue
		}
		for i, c := range l.chains() {
			if m := c.http(); m != nil {
				out = append(out, placed{m, "listener " + l.Name + ", " + chainName(&c, i)})
			}
		}
	}
	return out
}

func chainName(c *filterChain, i int) string {
	if c.Name != "" {
		return "chain " + c.Name
	}
	if c.Match.Port != nil {
		return fmt.Sprintf("the chain of port %d", *c.Match.Port)
	}
	return fmt.Sprintf("chain %d", i)
}
