package deploy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

var configurations = map[string]string{"demo": Demo, "sidecar": Sidecar, "rls": RLS, "extproc": ExtProc, "streams": Streams, "mesh": Mesh}

// walk calls visit with every mapping below node.
func walk(node any, visit func(map[string]any)) {
	switch n := node.(type) {
	case map[string]any:
		visit(n)
		for _, key := range slices.Sorted(maps.Keys(n)) {
			walk(n[key], visit)
		}
	case []any:
		for _, item := range n {
			walk(item, visit)
		}
	}
}

// wrong lists what in a configuration would hang streams or let requests pass.
func wrong(text string) (problems []string) {
	var root any
	if err := yaml.Unmarshal([]byte(regexp.MustCompile(`\$\{[A-Z_]+\}`).ReplaceAllString(text, "1")), &root); err != nil {
		return []string{err.Error()}
	}
	upgrades := false
	walk(root, func(m map[string]any) { upgrades = upgrades || m["upgrade_configs"] != nil })
	walk(root, func(m map[string]any) {
		if m["failure_mode_allow"] == true {
			problems = append(problems, "failure_mode_allow: whoever makes sluiced fail is admitted")
		}
		if m["disable_immediate_response"] == true {
			problems = append(problems, "disable_immediate_response: a refusal is a bare 503, and an admission where failure_mode_allow is true")
		}
		if mode, ok := m["processing_mode"].(map[string]any); ok {
			for _, field := range []string{"request_body_mode", "response_body_mode"} {
				if body := mode[field]; body != nil && body != "NONE" {
					problems = append(problems, fmt.Sprintf("%s: %v, with upgrades %v", field, body, upgrades))
				}
			}
			if upgrades && mode["response_trailer_mode"] != "SEND" {
				problems = append(problems, "response_trailer_mode: the stream to sluiced ends before the upgrade does")
			}
		}
		if asks, ok := m["request_attributes"].([]any); ok && !slices.Contains(asks, any("source.address")) {
			problems = append(problems, "request_attributes: without source.address all strangers are one source to the audit log")
		}
		if m["cluster_name"] == nil && m["name"] == "sluice" {
			if breakers := fmt.Sprint(m["circuit_breakers"]); breakers == "<nil>" {
				problems = append(problems, "circuit_breakers: the default of 1024 refuses what is not asked about")
			}
		}
	})
	return problems
}

func TestNoConfigurationHangsStreamsOrFailsOpen(t *testing.T) {
	for name, text := range configurations {
		t.Run("E-06, C-02 "+name+" is in order", func(t *testing.T) {
			for _, p := range wrong(text) {
				t.Error(p)
			}
		})
	}
	for _, bad := range []string{
		"a: {failure_mode_allow: true}", "a: {request_attributes: [source.principal]}", "a: {disable_immediate_response: true}", "a: {processing_mode: {request_body_mode: STREAMED}}",
		"a: [{upgrade_configs: [{}]}, {processing_mode: {response_trailer_mode: SKIP}}]", "clusters: [{name: sluice}]", "a: [",
	} {
		t.Run("what is not in order is seen: "+bad, func(t *testing.T) {
			if len(wrong(bad)) == 0 {
				t.Error("nothing was said")
			}
		})
	}
}
