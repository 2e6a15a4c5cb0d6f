package catalog

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

// The YAML of a page is one catalogue, so that what people copy can't rot.
func TestAPageOfTheDocsIsACatalogue(t *testing.T) {
	fence := regexp.MustCompile("(?ms)\n```yaml\n(.*?)```$")
	for _, page := range []string{"README.md", "docs/guide/limits.md", "docs/guide/authorization.md"} {
		t.Run(page+" is one", func(t *testing.T) {
			text, err := os.ReadFile("../../" + page)
			must(t, err)
			blocks := fence.FindAllStringSubmatch(string(text), -1)
			if len(blocks) == 0 {
				t.Fatal("the page has no YAML")
			}
			dir := t.TempDir()
			for i, b := range blocks {
				write(t, dir, fmt.Sprintf("block-%02d.yaml", i), b[1])
			}
			c := open(t, Options{Dir: dir})
			if len(c.View().Rules) == 0 {
				t.Error("without a rule it denies everything")
			}
		})
	}
}
