package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/quota/catalog"
)

// catalogue is what the commands need of a catalogue's folder.
type catalogue struct {
	rules *authz.Rules
	plans map[string]string // of tenants
	reads map[string]bool   // rules whose conditions read headers or bodies
}

// loadCatalogue reads a folder as sluiced does: a problem that would keep sluiced
// from taking it is an error here too.
func loadCatalogue(dir string) (*catalogue, error) {
	all, err := catalog.Open(catalog.Options{Dir: dir})
	if err != nil {
		return nil, fmt.Errorf("catalogue %s: %w", dir, err)
	}
	view := all.View()
	c := &catalogue{rules: all.Snapshot().Rules, plans: map[string]string{}, reads: map[string]bool{}}
	for _, t := range view.Tenants {
		c.plans[string(t.Value.ID)] = t.Value.Plan
	}
	for _, r := range view.Rules {
		alone, _ := authz.Compile([]authz.Rule{r.Value}) // it has no problems: all of them have none
		c.reads[r.Value.Name] = alone.ReadsHeaders()
	}
	return c, all.Close()
}

// maxTestFile is the largest file of policy tests that is read.
const maxTestFile = 4 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxTestFile+1))
	if len(data) > maxTestFile {
		return nil, fmt.Errorf("%s: is larger than 4 MiB; split it", path)
	}
	return data, err
}

var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	yamlLine     = regexp.MustCompile(`line (\d+): `)
)

// decodeYAML reads one document strictly. Errors name the file and the line.
func decodeYAML(path string, data []byte, into any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: is not YAML: %v", path, p)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	err = d.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if again := d.Decode(new(yaml.Node)); !errors.Is(again, io.EOF) {
			err = errors.New("holds more than one document; split it")
		}
	}
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	text = unknownField.ReplaceAllString(text, `unknown field "$1"`)
	if yamlLine.MatchString(text) {
		text = yamlLine.ReplaceAllString(text, path+":$1: ")
	} else {
		text = path + ": " + text
	}
	return errors.New(strings.ReplaceAll(text, "\n  ", "\n"))
}
