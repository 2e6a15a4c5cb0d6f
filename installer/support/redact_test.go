package support

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const planted = "Zq7PlantedSecretValue93"

// jwt is signed by nobody, and looks like all others.
func jwt(header string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(header)) + "." + part([]byte(`{"sub":"`+planted+`","iss":"https://issuer.example.com"}`)) + "." + part([]byte(planted))
}

func privateKey(t *testing.T) []byte {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestWhatIsSecretIsTakenOut(t *testing.T) {
	key := privateKey(t)
	body := strings.TrimSpace(strings.Split(string(key), "\n")[1])
	inJSON, err := json.Marshal(string(key))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, secret string }{
		"a JWT in a log line":                       {"denied: bearer was " + jwt(`{"alg":"RS256"}`) + " of issuer x", strings.Split(jwt(`{"alg":"RS256"}`), ".")[1]},
		"a JWT whose header has a space":            {"x " + jwt(`{ "alg": "RS256" }`), strings.Split(jwt(`{ "alg": "RS256" }`), ".")[1]},
		"a JWT without its signature":               {strings.Join(strings.Split(jwt(`{"alg":"none"}`), ".")[:2], "."), strings.Split(jwt(`{"alg":"none"}`), ".")[1]},
		"a bearer token that is no JWT":             {`authorization: Bearer ` + planted, planted},
		"a header as JSON":                          {`{"Authorization": "Bearer ` + planted + `", "x": 1}`, planted},
		"a header as JSON in JSON":                  {`{"msg": "{\"authorization\": \"Basic ` + planted + `\"}"}`, planted},
		"a header of a plain token":                 {`x-sluice-tenant-token=` + planted + ` next`, planted},
		"an API key by its form":                    {"key slk_" + planted + " was refused", planted},
		"an API key by its header":                  {`"x-api-key":"` + planted + `"`, planted},
		"a cookie":                                  {"Set-Cookie: session=" + planted + "; path=/", planted},
		"a password in YAML":                        {"db:\n  password: " + planted + "\n  host: db", planted},
		"a variable as a program prints it":         {"REDIS_PASSWORD=" + planted, planted},
		"a password in an address":                  {"redis://admin:" + planted + "@redis:6379/0", planted},
		"a token in a path of an access log":        {`"GET /v1/calls?limit=3&access_token=` + planted + `&x=1 HTTP/1.1" 200`, planted},
		"a private key":                             {"key:\n" + string(key), body},
		"a private key in JSON":                     {`{"k":` + string(inJSON) + `}`, body},
		"a private key in base64":                   {"tls.key: " + base64.StdEncoding.EncodeToString(key), base64.StdEncoding.EncodeToString(key)[:40]},
		"a header that Lua adds":                    {`handle:headers():add("x-backend-token", "` + planted + `")`, planted},
		"a header that Lua adds, in JSON":           {`{"inline_string": "add(\"authorization\", \"` + planted + `\")"}`, planted},
		"a password with spaces, in quotes":         {`{"password": "correct horse ` + planted + `", "x": 1}`, planted},
		"a password with spaces, in JSON in JSON":   {`{"m": "{\"password\": \"correct horse ` + planted + `\"}"}`, planted},
		"a password with spaces, to the line's end": {"db:\n  password: correct horse " + planted + "\n  host: db", planted},
		"a password on the lines below":             {"db:\n  password: |\n    " + planted + "\n  host: db", planted},
		"a password with an at sign, in an address": {"redis://admin:p@" + planted + "@redis:6379/0", planted},
		"a flag and its value":                      {"exec mysql --password " + planted + " -h db", planted},
		"a flag and its value in a list":            {"args:\n- --api-token\n- " + planted + "\n", planted},
		"a flag and its value in JSON":              {`["--password","` + planted + `"]`, planted},
		"a cloud's key by its name":                 {"aws_secret_access_key = " + planted, planted},
		"a cloud's key by its form":                 {"id AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"},
		"a forge's token by its form":               {"remote ghp_" + planted + planted + " refused", planted},
		"a passphrase":                              {"passphrase: " + planted, planted},
		"a bearer token beside nothing that tells":  {"sent Bearer " + planted + " upstream", planted},
	} {
		t.Run(name, func(t *testing.T) {
			r := &redactor{}
			got := string(r.text([]byte(c.text)))
			if strings.Contains(got, c.secret) || !strings.Contains(got, mark) || r.count == 0 {
				t.Errorf("%q became %q (%d found), want %q out of it", c.text, got, r.count, c.secret)
			}
		})
	}
}

func TestWhatIsNotSecretStays(t *testing.T) {
	for _, text := range []string{
		"secretName: sluice-secrets\n",
		"volumes:\n- projected:\n    sources:\n    - serviceAccountToken:\n        audience: istio-ca\n",
		"token_bucket: {max_tokens: 1000, tokens_per_fill: 1000}",
		"kind: AuthorizationPolicy\nmetadata: {name: tokens}",
		"outbound|8080||shop.apps.svc.cluster.local::10.0.0.1:8080::cx_total::3",
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
		"caBundle: " + base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")),
		"spiffe://cluster.local/ns/apps/sa/shop",
		"https://istio.io/latest/docs/?key",
		"args:\n- --token-file\n- /var/run/token\n",
		"tokenPath: /var/run/secrets/tokens/istio-token\npasswords are asked for\n",
		"existingSecret: \"\"\nname: x\n",
	} {
		if got := string((&redactor{}).text([]byte(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestValuesOfKnownSecretsAreFoundEverywhere(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	long := "first line of it, long enough\nsecond line of it, long enough\n"
	r := &redactor{}
	r.learn(&unstructured.Unstructured{Object: map[string]any{"kind": "Secret", "data": map[string]any{"a": encode(planted), "b": encode(long), "c": encode("short")}}})
	got := string(r.text([]byte(strings.Join([]string{"plain " + planted, "encoded " + encode(planted), "a line: second line of it, long enough", "short stays"}, "\n"))))
	if want := "plain [redacted]\nencoded [redacted]\na line: [redacted]\nshort stays"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestObjectsLeaveWithoutValues(t *testing.T) {
	text := fmt.Sprintf(`
- {apiVersion: v1, kind: Secret, metadata: {name: s}, data: {a: %[1]s}, stringData: {b: %[1]s}}
- apiVersion: v1
  kind: Pod
  metadata:
    name: p
    annotations: {kubectl.kubernetes.io/last-applied-configuration: '{"x":"%[1]s"}', kept: "yes"}
    managedFields: [{manager: x}]
  spec:
    initContainers: [{name: i, env: [{name: PLAIN, value: %[1]s}]}]
    containers: [{name: c, env: [{name: OTHER, value: %[1]s}, {name: CA_ADDR, value: "istiod:15012"}, {name: FROM, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: d}
  spec: {template: {spec: {containers: [{name: c, env: [{name: DEEP, value: %[1]s}], readinessProbe: {httpGet: {port: 80, httpHeaders: [{name: X-Api-Key, value: %[1]s}]}}}]}}}
- apiVersion: networking.istio.io/v1alpha3
  kind: EnvoyFilter
  metadata: {name: f}
  spec: {configPatches: [{patch: {value: {initial_metadata: [{key: authorization, value: %[1]s}, {key: x-kept, value: kept value}], password: {inline_string: %[1]s}}}}]}
`, planted)
	var all []map[string]any
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, o := range all {
		text, err := yaml.Marshal(object(&unstructured.Unstructured{Object: o}).Object)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	got := out.String()
	if strings.Contains(got, planted) || strings.Contains(got, "managedFields") {
		t.Errorf("there is a value left in\n%s", got)
	}
	for _, want := range []string{"istiod:15012", `kept: "yes"`, "fieldPath: metadata.name", "name: DEEP", "kept value"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is gone from\n%s", want, got)
		}
	}
}

func TestConfigurationOfEnvoyLeavesWithoutSecrets(t *testing.T) {
	dump := fmt.Sprintf(`{"configs": [
	{"name": "secret", "tls_certificate": {"private_key": {"inline_bytes": %[1]q}, "certificate_chain": {"inline_bytes": %[1]q}}},
	{"headers_to_add": [{"header": {"key": "x-api-key", "value": %[1]q}}, {"header": {"key": "x-kept", "value": "kept value"}}]},
	{"grpc_service": {"initial_metadata": [{"key": "authorization", "value": %[1]q}]}},
	{"redis": {"auth_password": {"inline_string": "x"}, "password": {"inline_string": %[1]q}}},
	{"name": "outbound|80||shop"}]}`, planted)
	got, err := configDump([]byte(dump))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(got, []byte(planted)) {
		t.Errorf("there is a secret left in\n%s", got)
	}
	for _, want := range []string{"kept value", "outbound|80||shop"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("%q is gone from\n%s", want, got)
		}
	}
	if _, err := configDump([]byte("upstream connect error")); err == nil {
		t.Error("what is no JSON was taken for Envoy's configuration")
	}
}

func TestTheEndOfALog(t *testing.T) {
	var long strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&long, "line %d\n", i)
	}
	for name, c := range map[string]struct {
		in, want string
		n        int
	}{
		"a short one is whole":                {"a\nb\n", "a\nb\n", 100},
		"a long one begins at a line":         {long.String(), "line 998\nline 999\n", 20},
		"one without a last newline is whole": {"a\nb", "a\nb", 100},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tail(strings.NewReader(c.in), c.n)
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestWhatHasNoRoomIsNamed(t *testing.T) {
	c := &collector{Options: Options{Limit: 10}}
	c.add("first", []byte("12345678"))
	c.add("second", []byte("123"))
	c.add("third", []byte("12"))
	if len(c.index.Files) != 2 || len(c.index.Missing) != 1 || c.index.Missing[0] != "second: 1 bytes more than there is room for" {
		t.Errorf("files %v, missing %q", c.index.Files, c.index.Missing)
	}
}
