package support

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// mark is what stands where something was taken out.
const mark = "[redacted]"

// names are how what is secret is called, or how such a name ends.
const names = `(?:token|password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|pepper|credentials?)`

// secretPatterns are what is secret by its form or its place.
var secretPatterns = []struct {
	find *regexp.Regexp
	with string
}{
	// A JWT, whole or without its signature. Its header begins with '{"' or '{ ' in base64.
	{regexp.MustCompile(`\bey[AJ][A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(\.[A-Za-z0-9_-]*)?`), mark},
	// Private keys, also where newlines are written as \n.
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)-----END [A-Z ]*PRIVATE KEY-----`), mark},
	// API keys of Sluice.
	{regexp.MustCompile(`\bslk_[A-Za-z0-9_-]+`), mark},
	// user:password@host
	{regexp.MustCompile(`(://)[^/\s:@"']*:[^/\s"']+@`), "${1}" + mark + "@"},
	// In a query.
	{regexp.MustCompile(`(?i)([?&](?:access_token|id_token|refresh_token|token|api[_-]?key|key|code|password|secret|signature|sig)=)[^&\s"'\\]+`), "${1}" + mark},
	// A header, in a log line, as JSON or as YAML. Also where the quotes are escaped.
	{regexp.MustCompile(`(?i)(\b(?:proxy-)?authorization\\?["']?[ \t]*[:=][ \t]*\\?["']?)(?:[A-Za-z]+ +)?[^\s"',;\\]+`), "${1}" + mark},
	{regexp.MustCompile(`(?i)(\b(?:set-)?cookie\\?["']?[ \t]*[:=][ \t]*\\?["']?)[^"'\n\\]+`), "${1}" + mark},
	// A name that says so and its value: in quotes, on the lines below, to the end of the line, or one word.
	{regexp.MustCompile(`(?i)(` + names + `\\?["']?[ \t]*[:=][ \t]*\\?")[^"\\\n\[]+`), "${1}" + mark},
	{regexp.MustCompile(`(?i)(` + names + `["']?:[ \t]*[|>][-+]?[ \t]*\n[ \t]+)[^\n]+`), "${1}" + mark},
	{regexp.MustCompile(`(?im)(^[ \t-]*[a-z0-9_.-]*` + names + `: +)[^\s"'|>\[{][^\n]*$`), "${1}" + mark},
	{regexp.MustCompile(`(?i)(` + names + `\\?["']?[ \t]*[:=][ \t]*\\?["']?)(?:(?:Bearer|Basic) +)?[^\s"',;\\\[{}|>]+`), "${1}" + mark},
	// A flag and its value, in one line or in a list.
	{regexp.MustCompile(`(?i)(--?[a-z0-9-]*` + names + `["']?(?:[ \t]+|[ \t]*\n[ \t]*- |[ \t]*,[ \t]*)["']?)[^\s"',\[-][^\s"',]*`), "${1}" + mark},
	// Keys of clouds and forges, by their form.
	{regexp.MustCompile(`\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{35})`), mark},
	// Two arguments of a call, as in a filter's Lua.
	{regexp.MustCompile(`(?i)((?:authorization|cookie|token|password|secret|api[_-]?key)\\?["'][ \t]*,[ \t]*\\?["'])[^"'\\]+`), "${1}" + mark},
	{regexp.MustCompile(`(?i)\b(Bearer|Basic) +[A-Za-z0-9._~+/=-]{8,}`), "${1} " + mark},
}

// encodedPEM is PEM in base64, as Secrets and Envoy's inline_bytes have it.
var encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]+={0,2}`)

// redactor takes out of text what must not leave the cluster: what it was told, and what looks like it.
type redactor struct {
	known [][]byte
	count int
}

// learn remembers the values of a Secret, plain and in base64, wherever they turn up.
// Short ones are no secret, and would be found everywhere.
func (r *redactor) learn(u *unstructured.Unstructured) {
	data, _, _ := unstructured.NestedStringMap(u.Object, "data")
	for _, encoded := range data {
		plain, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(bytes.TrimSpace(plain)) < 8 {
			continue
		}
		plain = bytes.TrimSpace(plain)
		r.known = append(r.known, plain, []byte(encoded), []byte(base64.RawURLEncoding.EncodeToString(plain)))
		// Lines of a longer one, as a log would show them.
		for line := range bytes.SplitSeq(plain, []byte("\n")) {
			if line = bytes.TrimSpace(line); len(line) >= 20 && !bytes.HasPrefix(line, []byte("-----")) {
				r.known = append(r.known, line)
			}
		}
	}
	slices.SortFunc(r.known, func(a, b []byte) int { return len(b) - len(a) })
}

// text is text without what must not leave.
func (r *redactor) text(in []byte) []byte {
	out := in
	for _, secret := range r.known {
		if n := bytes.Count(out, secret); n > 0 {
			r.count += n
			out = bytes.ReplaceAll(out, secret, []byte(mark))
		}
	}
	out = encodedPEM.ReplaceAllFunc(out, func(found []byte) []byte {
		plain, err := base64.StdEncoding.DecodeString(string(found))
		if err != nil || !bytes.Contains(plain, []byte("PRIVATE KEY")) {
			return found
		}
		r.count++
		return []byte(mark)
	})
	for _, p := range secretPatterns {
		if n := len(p.find.FindAllIndex(out, -1)); n > 0 {
			r.count += n
			out = p.find.ReplaceAll(out, []byte(p.with))
		}
	}
	return out
}

// object takes out the values of a Secret, of environments and of headers, and what nobody reads.
func object(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := u.DeepCopy()
	unstructured.RemoveNestedField(out.Object, "metadata", "managedFields")
	annotations := out.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration") // a copy of the whole, by another name
	out.SetAnnotations(annotations)
	if out.GroupVersionKind().GroupKind() == (schema.GroupKind{Kind: "Secret"}) {
		for _, field := range []string{"data", "stringData"} {
			data, ok, _ := unstructured.NestedMap(out.Object, field)
			if !ok {
				continue
			}
			for k, v := range data {
				data[k] = fmt.Sprintf("%s %d characters", mark, len(fmt.Sprint(v)))
			}
			_ = unstructured.SetNestedMap(out.Object, data, field)
		}
	}
	environment(out.Object)
	hide(out.Object)
	return out
}

// environment takes the values out of every list of variables.
func environment(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if list, ok := inner.([]any); ok && k == "env" {
				for _, item := range list {
					if variable, ok := item.(map[string]any); ok && variable["value"] != nil && !harmless[fmt.Sprint(variable["name"])] {
						variable["value"] = mark
					}
				}
				continue
			}
			environment(inner)
		}
	case []any:
		for _, inner := range v {
			environment(inner)
		}
	}
}

// harmless are variables of Istio that say how a proxy is set up.
var harmless = map[string]bool{
	"REVISION": true, "PILOT_CERT_PROVIDER": true, "CA_ADDR": true, "ISTIO_META_CLUSTER_ID": true, "ISTIO_META_MESH_ID": true, "TRUST_DOMAIN": true,
	"ISTIO_META_INTERCEPTION_MODE": true, "ISTIO_META_WORKLOAD_NAME": true, "ISTIO_META_OWNER": true, "SECRET_TTL": true, "SECRET_GRACE_PERIOD_RATIO": true,
	"ENABLE_NATIVE_SIDECARS": true, "CLUSTER_ID": true, "PROXY_CONFIG": true, "ISTIO_META_APP_CONTAINERS": true, "ISTIO_META_POD_PORTS": true,
}

// hidden are fields of Envoy's configuration that hold secrets in the open.
var hidden = map[string]bool{
	"private_key": true, "password": true, "inline_bytes": true, "token_secret": true, "hmac_secret": true, "client_secret": true, "session_ticket_keys": true,
}

// configDump takes the secrets out of what Envoy runs. Envoy hides keys itself, not what filters were given.
func configDump(text []byte) ([]byte, error) {
	var tree any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("what Envoy answers is no JSON: %w", err)
	}
	hide(tree)
	return json.MarshalIndent(tree, "", " ")
}

func hide(v any) {
	switch v := v.(type) {
	case map[string]any:
		name, _ := v["key"].(string)
		if name == "" {
			name, _ = v["name"].(string) // of a probe's headers
		}
		for k, inner := range v {
			switch {
			case hidden[k]:
				v[k] = mark
			case k == "value" && headerPattern.MatchString(name): // a header that a filter adds
				v[k] = mark
			default:
				hide(inner)
			}
		}
	case []any:
		for _, inner := range v {
			hide(inner)
		}
	}
}

var headerPattern = regexp.MustCompile(`(?i)authorization|cookie|token|secret|password|api[_-]?key`)
