package render

import (
	"bytes"
	"fmt"

	"sigs.k8s.io/yaml"
)

// YAML writes objects as one text of documents, each under the name of its
// component, for kubectl apply or for reading.
func YAML(components []Rendered) ([]byte, error) {
	var b bytes.Buffer
	for _, c := range components {
		for _, o := range c.Objects {
			text, err := yaml.Marshal(o.Object)
			if err != nil {
				return nil, fmt.Errorf("writing %s %s: %w", o.GetKind(), o.GetName(), err)
			}
			fmt.Fprintf(&b, "---\n# %s\n%s", c.Name, text)
		}
	}
	return b.Bytes(), nil
}
