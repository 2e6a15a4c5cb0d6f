package authz

import (
	"slices"
	"strings"

	"github.com/voicecore-ai/sluice/tenant"
)

const (
	maxMethod  = 64
	maxService = 2048 // may be a SPIFFE id
)

// what is a compiled What. Nil lists match everything.
//
// An allowing rule matches exactly what it says. A denying one also matches
// what some upstream takes for the same: another case of letters (as [foldPath] has them), a '/'
// at the end, and the other protocol, because the content-type that makes a request gRPC
// is the client's to choose (P-04, P-13).
type what struct {
	denies   bool
	services []string
	hosts    []host
	methods  []string
	paths    []template
	grpc     []grpcMethod
}

// host matches one host, or every one below a domain.
type host struct {
	name  string // with the leading '.' if below
	below bool
}

func (h host) match(name string) bool {
	if h.below {
		return len(name) > len(h.name) && strings.HasSuffix(name, h.name)
	}
	return name == h.name
}

// grpcMethod matches a path: exactly, or every method of a service.
type grpcMethod struct {
	path  string // "/package.Service/Method" or "/package.Service/"
	below bool
}

func (g grpcMethod) match(path string, denies bool) bool {
	if denies {
		path = strings.TrimSuffix(path, "/")
	}
	if g.below {
		if len(path) <= len(g.path) || !equal(path[:len(g.path)], g.path, denies) {
			return false
		}
		return strings.IndexByte(path[len(g.path):], '/') < 0
	}
	return equal(path, g.path, denies)
}

func (c *compiler) what(w *What, denies bool) (out what) {
	out.denies = denies
	c.list("what.services", w.Services, func(item int, name string) {
		if !visibleText(name, maxService) || strings.Contains(name, "*") {
			c.problem("what.services", item, tenant.Quote(name)+" is no name of a service", "the route's service or the workload's SPIFFE id, whole: 1 to 2048 visible ASCII characters, no '*'")
		}
	})
	c.list("what.hosts", w.Hosts, func(item int, name string) {
		suffix, below := strings.CutPrefix(name, "*")
		bare := suffix
		if below {
			bare, below = strings.CutPrefix(suffix, ".")
			below = below && !strings.HasPrefix(bare, "[")
		}
		canonical, err := CanonicalHost(bare)
		if err != nil || canonical != bare || !below && bare != name {
			c.problem("what.hosts", item, tenant.Quote(name)+" is no host", "a host in lower case without its port, such as api.example.com; or *.example.com for all below it")
			return
		}
		out.hosts = append(out.hosts, host{suffix, below})
	})
	c.list("what.methods", w.Methods, func(item int, method string) {
		switch upper := strings.ToUpper(method); {
		case !visibleText(method, maxMethod) || strings.ContainsAny(method, `"(),/:;<=>?@[\]{}*`):
			c.problem("what.methods", item, tenant.Quote(method)+" is no method", "a name such as GET; leave methods out for every one")
		case method != upper && slices.Contains(commonMethods, upper):
			c.problem("what.methods", item, tenant.Quote(method)+" is not the method "+upper+": methods are case-sensitive", upper)
		}
	})
	c.list("what.paths", w.Paths, func(item int, text string) {
		t, wrong, right := parseTemplate(text, denies)
		if wrong != "" {
			c.problem("what.paths", item, tenant.Quote(text)+" "+wrong, right)
			return
		}
		out.paths = append(out.paths, t)
	})
	c.list("what.grpc", w.GRPC, func(item int, text string) {
		service, method, ok := strings.Cut(text, "/")
		if !ok || !grpcName(service, true) || method != "*" && !grpcName(method, false) {
			c.problem("what.grpc", item, tenant.Quote(text)+" names no gRPC method", "package.Service/Method, or package.Service/* for all of a service")
			return
		}
		path, below := strings.CutSuffix("/"+text, "*")
		out.grpc = append(out.grpc, grpcMethod{path, below})
	})
	if len(w.Paths) > 0 && len(w.GRPC) > 0 {
		c.problem("what", -1, "has paths and grpc, but no request is both", "one rule for the paths, another for the gRPC methods")
	}
	out.services, out.methods = slices.Clone(w.Services), slices.Clone(w.Methods)
	return out
}

var commonMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// grpcName reports whether s is a name of protobuf, with dots if qualified.
func grpcName(s string, qualified bool) bool {
	if len(s) > 512 {
		return false
	}
	first := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.' && qualified && !first:
			first = true
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_':
		case c >= '0' && c <= '9' && !first:
		default:
			return false
		}
		first = false
	}
	return !first
}

// match says which field does not match a; "" if all do. folded is a's path as foldPath
// has it, and template the index of the path template that matched.
func (w *what) match(a *Action, folded string) (wrong string, template int) {
	path := a.Path
	if w.denies {
		path = folded
	}
	switch {
	case w.services != nil && !slices.Contains(w.services, a.Service):
		return "what.services", 0
	case w.methods != nil && !w.matchMethod(a.Method):
		return "what.methods", 0
	case w.hosts != nil && !w.matchHost(a.Host):
		return "what.hosts", 0
	case w.grpc != nil && (!a.GRPC && !w.denies || !w.matchGRPC(path)):
		return "what.grpc", 0
	case w.paths == nil:
		return "", 0
	case a.GRPC && !w.denies:
		return "what.paths", 0
	}
	for i := range w.paths {
		if w.paths[i].match(path, w.denies) {
			return "", i
		}
	}
	return "what.paths", 0
}

func (w *what) matchMethod(method string) bool {
	for _, m := range w.methods {
		if equal(method, m, w.denies) {
			return true
		}
	}
	return false
}

func (w *what) matchHost(name string) bool {
	for i := range w.hosts {
		if w.hosts[i].match(name) {
			return true
		}
	}
	return false
}

func (w *what) matchGRPC(path string) bool {
	for i := range w.grpc {
		if w.grpc[i].match(path, w.denies) {
			return true
		}
	}
	return false
}

// heads are the beginnings of paths, up to two whole segments in lower case, under which
// the index finds the rule. A rule is under no two of which one request asks for both; "" is
// what every request asks for.
func (w *what) heads() []string {
	var heads []string
	for i := range w.paths {
		heads = append(heads, w.paths[i].head())
	}
	for _, g := range w.grpc {
		heads = append(heads, strings.ToLower(strings.TrimSuffix(g.path, "/")))
	}
	if len(heads) == 0 || slices.Contains(heads, "") {
		return []string{""}
	}
	slices.Sort(heads)
	heads = slices.Compact(heads)
	return slices.DeleteFunc(slices.Clone(heads), func(h string) bool {
		i := strings.LastIndexByte(h, '/')
		return i > 0 && slices.Contains(heads, h[:i])
	})
}

// equal compares bytes, or ASCII letters of either case.
func equal(a, b string, fold bool) bool {
	if a == b {
		return true
	}
	if !fold || len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
