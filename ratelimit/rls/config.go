package rls

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/ratelimit"
)

// Config is a compiled set of descriptor files. It is immutable; the zero
// value knows no domain.
type Config struct {
	domains map[string]*domain
}

// Domains are the names of the domains, sorted.
func (c *Config) Domains() []string { return slices.Sorted(maps.Keys(c.domains)) }

// Limits are those of all files, in no order. Their names begin with their domains'; two that differ only in dots and
// underscores of their keys may have one name.
func (c *Config) Limits() iter.Seq[*ratelimit.Limit] {
	return func(yield func(*ratelimit.Limit) bool) {
		for _, d := range c.domains {
			if !d.root.limits(yield) {
				return
			}
		}
	}
}

// limits yields those at and below n, and reports whether more are wanted.
func (n *node) limits(yield func(*ratelimit.Limit) bool) bool {
	if n.rule != nil && n.rule.limit != nil && !yield(n.rule.limit) {
		return false
	}
	for _, b := range n.keys {
		for _, below := range b.values { // wildcards too
			if !below.limits(yield) {
				return false
			}
		}
		if b.rest != nil && !b.rest.limits(yield) {
			return false
		}
	}
	return true
}

// Bounds of the files.
const (
	maxFile  = 8 << 20 // bytes
	maxRules = 200_000 // descriptors of all files
)

var (
	domainFields     = []string{"domain", "descriptors"}
	descriptorFields = []string{
		"key", "value", "rate_limit", "descriptors", "shadow_mode", "detailed_metric", "value_to_metric", "share_threshold", "quota_mode",
	}
	limitFields = []string{
		"unit", "requests_per_unit", "unit_multiplier", "unlimited", "name", "replaces",
		"algorithm", "burst", "durable", "count_refused", "on_outage",
	}
	replaceFields = []string{"name"}
	algorithms    = map[string]ratelimit.Algorithm{
		"": ratelimit.Fixed, "fixed": ratelimit.Fixed, "gcra": ratelimit.GCRA, "hard": ratelimit.Hard,
	}
)

// Load reads descriptor files of envoyproxy/ratelimit: each path is a file or
// a directory, of which it reads the *.yaml and *.yml files that are not
// hidden; editors' and Kubernetes' temporary files are. A file holds one
// domain per YAML document, and a domain is in one document.
//
// Beside the reference's fields a rate_limit may have
//
//   - algorithm: fixed (the default, the reference's), gcra or hard;
//   - burst: hits admitted at once, gcra only, requests_per_unit if absent;
//   - unit_multiplier: the window is so many units;
//   - durable: the counter survives a crash; true from a minute up if absent;
//   - count_refused: hits that were refused fill the limit, as they do in the
//     reference. For usage that is reported when it is over
//     (apply_on_stream_done): that can be refused, but not undone. Such a fill
//     is not journaled until the next hit;
//   - on_outage: deny, allow or local, while a shared store does not answer;
//     if absent the server's default, which is deny for a durable limit and local for another
//     unless it says otherwise.
//
// The error is Problems: everything that is wrong.
func Load(paths ...string) (*Config, error) {
	l := &loader{left: maxRules}
	c := &Config{domains: map[string]*domain{}}
	first := map[string]string{} // where a domain was met
	for _, path := range paths {
		for _, file := range l.files(path) {
			l.file = file
			l.load(c, first)
		}
	}
	if l.left < 0 && !l.full {
		l.problem(nil, "<<", fmt.Sprintf("there are more than %d", maxRules), "write the fields out")
	}
	if len(l.problems) > 0 {
		return nil, l.problems
	}
	return c, nil
}

// files lists what path stands for.
func (l *loader) files(path string) []string {
	l.file = path
	info, err := os.Stat(path)
	if err != nil {
		l.problem(nil, "", reason(err), "name a file or a directory that sluiced can read")
		return nil
	}
	if !info.IsDir() {
		return []string{path}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		l.problem(nil, "", reason(err), "let sluiced read the directory")
		return nil
	}
	var files []string
	for _, e := range entries {
		if name := e.Name(); wanted(name) {
			file := filepath.Join(path, name)
			if info, err := os.Stat(file); err != nil || !info.IsDir() { // a dangling link is for load to report
				files = append(files, file)
			}
		}
	}
	return files
}

func reason(err error) string {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return "can't be read: " + err.Error()
}

func wanted(name string) bool {
	ext := filepath.Ext(name)
	return (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "#")
}

func (l *loader) load(c *Config, first map[string]string) {
	f, err := os.Open(l.file)
	if err != nil {
		l.problem(nil, "", reason(err), "let sluiced read the file")
		return
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err = errors.Join(err, f.Close()); err != nil {
		l.problem(nil, "", reason(err), "let sluiced read the file")
		return
	}
	if len(content) > maxFile {
		l.problem(nil, "", fmt.Sprintf("is larger than %d bytes", maxFile), "split it by domain")
		return
	}
	l.parse(c, first, content)
}

// parse reads the documents of one file.
func (l *loader) parse(c *Config, first map[string]string, content []byte) {
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	for n := 0; ; n++ {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			if n == 0 {
				l.problem(nil, "", "holds no domain", "write domain and descriptors, or remove the file")
			}
			return
		}
		if err != nil {
			l.problem(nil, "", "is not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "indent with spaces, and quote text that has : or # in it")
			return
		}
		if len(document.Content) == 1 {
			l.domain(c, first, document.Content[0])
		}
	}
}

func (l *loader) domain(c *Config, first map[string]string, n *yaml.Node) {
	m, ok := l.mapping(n, "", domainFields)
	if !ok {
		return
	}
	name := m.text("domain")
	d := &domain{ids: map[string]int{}}
	switch where, twice := first[name]; {
	case name == "" && !m.absent("domain"):
	case name == "":
		l.problem(m.node, "domain", "is missing", "write the domain that Envoy's rate limit filter has")
	case twice:
		l.problem(m.fields["domain"], "domain", fmt.Sprintf("%q is described at %s already", name, where), "keep a domain in one document")
	default:
		first[name] = fmt.Sprintf("%s:%d", l.file, m.fields["domain"].Line)
		c.domains[name] = d
	}
	l.descriptors(d, &d.root, &m, place{domain: name, metric: name})
}

// place is where in a domain a list of descriptors stands.
type place struct {
	domain string
	metric string // the name so far, as the reference spells it
	parts  []part
	depth  int
}

func (l *loader) descriptors(d *domain, parent *node, m *mapping, at place) {
	list := m.list("descriptors")
	if len(list) > 0 && at.depth >= maxEntries {
		l.problem(m.node, m.at("descriptors"), "is nested too deep", fmt.Sprintf("requests carry at most %d entries", maxEntries))
		return
	}
	for i, n := range list {
		if l.left--; l.left < 0 {
			if !l.full {
				l.full = true
				l.problem(n, m.at("descriptors"), fmt.Sprintf("there are more than %d descriptors", maxRules), "use key-only or wildcard descriptors")
			}
			return
		}
		if sub, ok := l.mapping(n, fmt.Sprintf("%s[%d]", m.at("descriptors"), i), descriptorFields); ok {
			l.descriptor(d, parent, &sub, at)
		}
	}
}

func (l *loader) descriptor(d *domain, parent *node, m *mapping, at place) {
	key, value := m.text("key"), m.text("value")
	switch {
	case m.absent("key"):
		l.problem(m.node, m.at("key"), "is missing", "every descriptor needs a key")
	case value == "" && strings.HasSuffix(key, "*"):
		l.problem(m.fields["key"], m.at("key"), "ends with *", "wildcards are for values: leave the value out to match all")
	}
	n := &node{}
	shared := m.boolean("share_threshold", false)
	if shared {
		if n.pattern = value; !strings.HasSuffix(value, "*") {
			l.problem(m.fields["share_threshold"], m.at("share_threshold"), "needs a value that ends with *", "write a wildcard, or leave it out: a plain value has one counter anyway")
		}
	}
	if m.boolean("quota_mode", false) {
		l.problem(m.fields["quota_mode"], m.at("quota_mode"), "is not supported", "use shadow_mode to count and never refuse, or a plan of the quota catalogue")
	}
	if !parent.add(key, value, n) {
		l.problem(m.node, m.path, fmt.Sprintf("key %q with value %q is there twice", shorten(key), shorten(value)), "keep one: a request can meet only one of them")
	}
	detailed := m.boolean("detailed_metric", false)
	p := part{key: key, value: value, live: m.boolean("value_to_metric", false) && !shared}
	below := place{domain: at.domain, metric: at.metric + "." + key, depth: at.depth + 1, parts: append(slices.Clip(at.parts), p)}
	if value != "" {
		below.metric += "_" + value
	}
	shadow := m.boolean("shadow_mode", false)
	if limit := m.get("rate_limit"); limit != nil {
		if sub, ok := l.mapping(limit, m.at("rate_limit"), limitFields); ok {
			n.rule = l.rule(d, &sub, below.metric, shadow)
			n.rule.setMetric(below, detailed)
		}
	}
	l.descriptors(d, n, m, below)
}

// add puts n below parent and reports whether its place was free.
func (n *node) add(key, value string, child *node) bool {
	if n.keys == nil {
		n.keys = map[string]*branch{}
	}
	b := n.keys[key]
	if b == nil {
		b = &branch{values: map[string]*node{}}
		n.keys[key] = b
	}
	if value == "" {
		if b.rest != nil {
			return false
		}
		b.rest = child
		return true
	}
	if b.values[value] != nil {
		return false
	}
	b.values[value] = child
	if prefix, ok := strings.CutSuffix(value, "*"); ok {
		b.wildcards = append(b.wildcards, wildcard{[]byte(prefix), child})
	}
	return true
}

// setMetric makes the rule's metric hold values of requests where the file says so.
func (r *rule) setMetric(at place, detailed bool) {
	live := false
	parts := slices.Clone(at.parts)
	for i := range parts {
		// detailed_metric is for values that the file does not list, at the end.
		parts[i].live = parts[i].live || detailed && (i == len(parts)-1 || parts[i].value == "")
		live = live || parts[i].live
	}
	if live {
		r.metric, r.parts = at.domain, parts
	}
}

func (l *loader) rule(d *domain, m *mapping, name string, shadow bool) *rule {
	r := &rule{metric: name}
	label := l.names(d, m, r)
	unit, unlimited := m.text("unit"), m.boolean("unlimited", false)
	number := unitNumbers[strings.ToLower(unit)]
	perUnit, hasPerUnit := m.count("requests_per_unit", 0, maxUint32)
	multiplier, hasMultiplier := m.count("unit_multiplier", 1, maxUint32)
	algorithm, known := algorithms[strings.ToLower(m.text("algorithm"))]
	burst, hasBurst := m.count("burst", 1, maxUint32)
	refused := m.boolean("count_refused", false)
	if !known {
		l.problem(m.fields["algorithm"], m.at("algorithm"), "is "+kindOf(resolve(m.fields["algorithm"])), "write fixed, gcra or hard")
	}
	if hasBurst && known && algorithm != ratelimit.GCRA {
		l.problem(m.fields["burst"], m.at("burst"), "is for gcra only", "write algorithm: gcra, or leave burst out")
	}
	if unlimited {
		for _, f := range []string{"unit", "unit_multiplier", "algorithm", "burst", "durable", "count_refused", "on_outage"} {
			if m.get(f) != nil {
				l.problem(m.fields[f], m.at(f), "is there although the limit is unlimited", "leave one of the two out")
			}
		}
		return r
	}
	switch {
	case unit == "":
		l.problem(m.node, m.at("unit"), "is missing", "write second, minute, hour, day, week, month or year")
	case number == 0:
		l.problem(m.fields["unit"], m.at("unit"), "is "+kindOf(resolve(m.fields["unit"])), "write second, minute, hour, day, week, month or year")
	}
	if !hasPerUnit && m.get("requests_per_unit") == nil {
		l.problem(m.node, m.at("requests_per_unit"), "is missing", "write how many; 0 refuses all")
	}
	if !hasMultiplier {
		multiplier = 1
	}
	window, fits := windowOf(number, uint32(multiplier))
	if number != 0 && !fits {
		l.problem(m.fields["unit_multiplier"], m.at("unit_multiplier"), "makes the window longer than 366 days", "write a smaller one")
	}
	limit := ratelimit.Limit{
		Name: name, Algorithm: algorithm, Hits: int64(perUnit), Window: window,
		Shadow: shadow, Durable: m.boolean("durable", window >= time.Minute),
	}
	word := m.text("on_outage")
	limit.OutageSaid = word != ""
	if !limit.OnOutage.Say(word, limit.Durable) {
		l.problem(m.fields["on_outage"], m.at("on_outage"), "is "+kindOf(resolve(m.fields["on_outage"])), "write deny, allow or local")
	}
	if algorithm == ratelimit.GCRA {
		if limit.Burst = int64(burst); !hasBurst {
			limit.Burst = max(limit.Hits, 1)
		}
	}
	r.limit, r.perUnit = &limit, uint32(perUnit)
	r.encoded = encodeLimit(uint32(perUnit), number, uint32(multiplier), label)
	if refused {
		brim := limit
		brim.Shadow = true
		r.brim = &brim
	}
	return r
}

// names reads name and replaces, and returns the name.
func (l *loader) names(d *domain, m *mapping, r *rule) string {
	id := func(name string) int {
		if d.ids[name] == 0 {
			d.ids[name] = len(d.ids) + 1
		}
		return d.ids[name]
	}
	name := m.text("name")
	if name != "" {
		r.id = id(name)
	}
	for i, n := range m.list("replaces") {
		sub, ok := l.mapping(n, fmt.Sprintf("%s[%d]", m.at("replaces"), i), replaceFields)
		if !ok {
			continue
		}
		switch other := sub.text("name"); other {
		case "":
			l.problem(sub.node, sub.at("name"), "is missing", "write the name of the limit that this one replaces")
		case name:
			l.problem(sub.node, sub.at("name"), "is the limit's own", "a limit can't replace itself: name another one")
		default:
			r.replaces = append(r.replaces, id(other))
		}
	}
	return name
}
