package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/wiring"
)

var proxyChecks = []Check{
	{Code: "SV210", Title: "every proxy can be asked what it runs", Severity: Fail, run: unreadProxies},
	{Code: "SV211", Title: "no proxy refuses what istiod sends it", Severity: Fail, run: rejections},
	{Code: "SV212", Title: "every proxy that is to ask has Sluice's filters, in their order", Severity: Fail, run: filters},
	{Code: "SV213", Title: "headers that only Sluice may write are removed before any filter or route", Severity: Fail, run: strips},
	{Code: "SV214", Title: "every proxy that asks reaches Sluice by istiod's cluster, in mutual TLS", Severity: Fail, run: clusters},
	{Code: "SV215", Title: "no proxy lets requests pass when Sluice does not answer", Severity: Fail, run: failsOpen},
	{Code: "SV216", Title: "no proxy takes plain text", Severity: Fail, run: strict},
}

func unreadProxies(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.proxies(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range all {
		if p.err != nil {
			out = append(out, Finding{
				Object: p.String(), Says: "nothing can be said of its proxy: " + p.err.Error(), Evidence: fmt.Sprintf("port %d, through the API server", adminPort),
				Fix: "kubectl logs -n " + p.pod.Namespace + " " + p.pod.Name + " -c " + proxyContainer,
			})
		}
	}
	if len(all) == 0 {
		out = append(out, Finding{Object: "the mesh", Says: "there is no proxy at all in namespaces " + strings.Join(m.namespaces(), ", "), Fix: "sluice mesh install, then restart the workloads"})
	}
	return out, nil
}

func rejections(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.readable(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range all {
		refused := false
		for i := range p.listeners {
			if l := &p.listeners[i]; l.rejected != "" {
				refused = true
				out = append(out, Finding{
					Object: p.String(), Says: "Envoy refuses the newest listener " + l.Name + " and keeps the old one, without what was changed",
					Evidence: l.rejected, Fix: "correct the EnvoyFilter that has it; 'sluice mesh analyze' names the field",
				})
			}
		}
		// Of listeners Envoy says which it refuses now; of clusters it only counts.
		for stat, severity := range map[string]Severity{"listener_manager.lds.update_rejected": Info, "cluster_manager.cds.update_rejected": Warn} {
			if n := p.stats[stat]; n > 0 && !refused {
				out = append(out, Finding{
					Severity: severity, Object: p.String(), Says: "Envoy has refused configuration since it started",
					Evidence: fmt.Sprintf("%s: %d", stat, n), Fix: "see its log for what was refused; a restart of the pod begins to count again",
				})
			}
		}
	}
	return out, nil
}

// each visits what the mesh wants at each proxy that can be read.
func (m *Mesh) each(ctx context.Context, visit func(p *proxy, w *wanted)) error {
	all, err := m.readable(ctx)
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.wanted == nil {
			w := m.wants(p)
			p.wanted = &w
		}
		if !p.wanted.nothing() {
			visit(p, p.wanted)
		}
	}
	return nil
}

func filters(ctx context.Context, m *Mesh) (out []Finding, err error) {
	err = m.each(ctx, func(p *proxy, w *wanted) {
		managers := p.managers()
		if len(managers) == 0 && len(p.listeners) > 0 {
			return // a gateway without a server, a workload without a port: nothing comes in
		}
		if len(p.listeners) == 0 {
			out = append(out, Finding{Object: p.String(), Says: "it has no listeners: istiod sent it nothing yet", Evidence: "config_dump", Fix: "see SV203, and the log of its " + proxyContainer})
		}
		said := map[string]bool{}
		for _, at := range managers {
			says := misplaced(at.manager, w)
			if says == "" || said[says] {
				continue
			}
			said[says] = true
			out = append(out, Finding{
				Object: p.String(), Says: says, Evidence: at.where + ": " + strings.Join(at.names(), ", "),
				Fix: "'sluice mesh diff' shows whether " + w.from + " is as laid down; SV211 whether Envoy refused it",
			})
		}
	})
	return out, err
}

func (m *manager) names() (out []string) {
	for _, f := range m.Filters {
		out = append(out, f.Name)
	}
	return out
}

// misplaced says what is wrong with the order of an HTTP connection manager's filters; nothing if nothing is.
//
// istiod puts ext_authz first, then checks identities and its own policies; what
// costs a call per request comes behind those and before the router.
func misplaced(m *manager, w *wanted) string {
	names := m.names()
	if len(names) == 0 || names[len(names)-1] != routerFilter {
		return "the router is not the last filter"
	}
	last := -1
	if w.authz {
		if last = slices.Index(names, authzFilter); last < 0 {
			return "ext_authz is missing: requests are not authorized"
		}
	}
	for i, n := range names {
		if slices.Contains([]string{rbacFilter, jwtFilter}, n) && len(w.filters) > 0 {
			last = max(last, i)
		}
	}
	for i, f := range w.filters {
		at := slices.Index(names, f)
		switch {
		case at < 0:
			return f + " is missing"
		case at < last && i > 0:
			return fmt.Sprintf("%s comes before %s", f, w.filters[i-1])
		case at < last:
			return f + " comes before the proxy has checked who calls"
		}
		last = at
	}
	return ""
}

func strips(ctx context.Context, m *Mesh) (out []Finding, err error) {
	err = m.each(ctx, func(p *proxy, w *wanted) {
		for _, at := range p.managers() {
			where := ""
			switch {
			case w.strips && len(at.Early) == 0:
				where = "a caller can bring x-tenant-id and other headers that only Sluice may write, on excluded paths too"
			case w.logs && !logs(at.manager):
				where = "what it answers is not told to Sluice: no cost is settled and nothing is audited"
			default:
				continue
			}
			out = append(out, Finding{
				Object: p.String(), Says: where, Evidence: at.where + " has no early_header_mutation_extensions, or no gRPC access log",
				Fix: "'sluice mesh diff' shows whether " + w.from + " is as laid down; SV211 whether Envoy refused it",
			})
			return
		}
	})
	return out, err
}

func logs(m *manager) bool {
	for _, l := range m.Logs {
		if t, _ := l.Config["@type"].(string); strings.HasSuffix(t, ".HttpGrpcAccessLogConfig") {
			return true
		}
	}
	return false
}

func clusters(ctx context.Context, m *Mesh) (out []Finding, err error) {
	want := wiring.Cluster(m.values)
	err = m.each(ctx, func(p *proxy, w *wanted) {
		if !w.asks {
			return
		}
		c := p.clusters[want]
		switch {
		case c == nil:
			out = append(out, Finding{
				Object: p.String(), Says: "it has no cluster to Sluice, so every request that it asks about is refused", Evidence: "config_dump has no " + want,
				Fix: "see that the Service is there (SV202), and that no Sidecar, exportTo or discoverySelectors hides it (SD312)",
			})
		case !c.mutual():
			out = append(out, Finding{
				Object: p.String(), Says: "it calls Sluice in plain text, which shows no identity and which anybody can answer", Evidence: want + " has no TLS for endpoints of the mesh",
				Fix: "remove the DestinationRule for Sluice's host that sets tls, and give Sluice's pods a sidecar",
			})
		}
	})
	return out, err
}

func failsOpen(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.readable(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range all {
		said := map[string]bool{}
		for _, at := range p.managers() {
			for _, f := range at.Filters {
				config := inner(f.Config)
				t, _ := config["@type"].(string)
				kind := t[strings.LastIndexByte(t, '.')+1:]
				open := (kind == "ExtAuthz" || kind == "ExternalProcessor") && config["failure_mode_allow"] == true ||
					kind == "RateLimit" && config["failure_mode_deny"] != true && m.ours(config)
				if open && !said[kind] {
					said[kind] = true
					out = append(out, Finding{
						Object: p.String(), Says: kind + " lets requests pass when nobody answers: whoever makes the server fail is admitted", Evidence: at.where + ", filter " + f.Name,
						Fix: "remove what sets it; 'sluice mesh analyze' names the object (SL121, SL122)",
					})
				}
			}
		}
	}
	return out, nil
}

// inner is the configuration in a filter that is left out for some requests.
func inner(config map[string]any) map[string]any {
	if extension, ok := config["extension_config"].(map[string]any); ok {
		if in, ok := extension["typed_config"].(map[string]any); ok {
			return in
		}
	}
	return config
}

// ours reports whether a filter's configuration calls Sluice.
func (m *Mesh) ours(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if key == "cluster_name" && value == wiring.Cluster(m.values) || m.ours(value) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, m.ours)
	}
	return false
}

func strict(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.readable(ctx)
	if err != nil {
		return nil, err
	}
	var out []Finding
	for _, p := range all {
		if p.gateway || p.pod.Namespace != m.values.Mesh.Namespace && p.pod.Namespace != m.values.Sluice.Namespace {
			continue
		}
		for i := range p.listeners {
			l := &p.listeners[i]
			if l.Name != inbound {
				continue
			}
			for i, c := range l.chains() {
				if c.blackhole() || c.Socket.tls() {
					continue
				}
				f := Finding{
					Object: p.String(), Says: "it takes plain text: callers without a certificate have no principal, and reach it all the same",
					Evidence: "listener " + inbound + ", " + chainName(&c, i) + ", has no transport socket",
					Fix:      "remove the PeerAuthentication that allows it (kubectl get peerauthentication -A), or end the soft stage: --set mesh.stage=enforced",
				}
				if m.values.Mesh.Stage == profile.Soft {
					f.Severity = Warn
				}
				out = append(out, f)
				break
			}
		}
	}
	return out, nil
}
