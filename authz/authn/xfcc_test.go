package authn_test

import (
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/authz/authn"
)

func TestI04XFCC(t *testing.T) {
	const id = "spiffe://mesh/ns/acme/sa/app"
	for _, tt := range []struct {
		name, value string
		want        string // "" for malformed
	}{
		{"the URI alone", `URI=` + id, id},
		{"what Istio writes", `By=spiffe://mesh/ns/edge/sa/gw;Hash=3f5a;Subject="";URI=` + id, id},
		{"the pairs in another order", `URI=` + id + `;Subject="CN=a,O=b";By=x;Hash=y`, id},
		{"names in any case", `by=x;uri=` + id, id},
		{"the URI in quotes", `URI="` + id + `"`, id},
		{"commas, semicolons and equal signs in quotes", `Subject="CN=a,O=b;C=d";URI=` + id, id},
		{"an escaped quote in quotes", `Subject="CN=\"a\",O=b";URI=` + id, id},
		{"a URI inside a quoted value is text", `Subject="CN=a\";URI=spiffe://mesh/evil;x=\"";URI=` + id, id},
		{"a certificate and DNS names", `Hash=a;Cert="-----BEGIN%20CERTIFICATE-----%0AMIIB%3D%0A";DNS=a.example.com;DNS=b.example.com;URI=` + id, id},
		{"an escaped backslash", `Subject="CN=a\\b";URI=` + id, id},

		{"nothing", ``, ""},
		{"no URI", `By=x;Hash=y`, ""},
		{"an empty URI", `By=x;URI=`, ""},
		{"an empty URI in quotes", `URI=""`, ""},
		{"two URIs", `URI=` + id + `;URI=` + id, ""},
		{"two URIs, one empty", `URI=` + id + `;URI=`, ""},
		{"two URIs in two cases", `URI=` + id + `;uri=spiffe://mesh/evil`, ""},
		{"two elements", `URI=` + id + `,URI=` + id, ""},
		{"two elements, the first without a URI", `By=x,URI=` + id, ""},
		{"a comma at the end", `URI=` + id + `,`, ""},
		{"a comma in front", `,URI=` + id, ""},
		{"a semicolon at the end", `URI=` + id + `;`, ""},
		{"two semicolons", `By=x;;URI=` + id, ""},
		{"a name without a value", `By;URI=` + id, ""},
		{"a value without a name", `=x;URI=` + id, ""},
		{"a blank in front of a name", `By=x; URI=` + id, ""},
		{"a blank behind a name", `URI =` + id, ""},
		{"a blank in a value", `URI=` + id + ` `, ""},
		{"an equal sign outside quotes", `By=a=b;URI=` + id, ""},
		{"a quote in the middle of a value", `By=a"b";URI=` + id, ""},
		{"a quote that does not end", `Subject="CN=a;URI=` + id, ""},
		{"text behind a quote", `Subject="a"b;URI=` + id, ""},
		{"a backslash outside quotes", `By=a\;URI=` + id, ""},
		{"a backslash at the end", `URI="` + id + `\`, ""},
		{"a quote behind two backslashes can be read in two ways", `Subject="CN=a\\";URI=` + id, ""},
		{"a URI that such a quote would let in", `Subject="CN=a\\";URI=spiffe://mesh/evil;x="";By=y`, ""},
		{"17 KiB", `Cert="` + strings.Repeat("a", 17<<10) + `";URI=` + id, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := authn.ParseXFCC(tt.value)
			if ok != (tt.want != "") || ok && got != tt.want {
				t.Errorf("got %q, %t, want %q", got, ok, tt.want)
			}
		})
	}
}

func FuzzParseXFCC(f *testing.F) {
	for _, s := range []string{
		`By=spiffe://mesh/gw;Hash=00;Subject="CN=a,O=\"b\"";URI=spiffe://mesh/a`, `URI=a,URI=b`, `Subject="\\";URI=a`, `URI="a\"b"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		uri, ok := authn.ParseXFCC(value)
		if !ok {
			return
		}
		if uri == "" || strings.Contains(value, ",") && !strings.Contains(value, `"`) {
			t.Errorf("%q gives %q", value, uri)
		}
		if again, ok := authn.ParseXFCC(value + ",URI=x"); ok {
			t.Errorf("a second element is overlooked: %q", again)
		}
		if again, ok := authn.ParseXFCC(value + ";URI=x"); ok {
			t.Errorf("a second URI is overlooked: %q", again)
		}
	})
}
