package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/app"
	"github.com/voicecore-ai/sluice/cli"
)

const repository = "../.."

var (
	fenced  = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")
	spanned = regexp.MustCompile("`([^`\n]+)`")
	hinted  = regexp.MustCompile(`'([^'\n]+)'`)
	called  = regexp.MustCompile(`(?m)(?:^|[|;&(])\s*(?:bin/)?((?:sluiced?|make)\b(?: [^|;&()<>#\n]*)?)`)
	made    = regexp.MustCompile(`(?m)^([a-z0-9-]+):|\$\(([A-Z_]+)\)`)
)

// TestEveryCommandThatIsWrittenDownIsThere reads the pages, the examples of the commands and the hints in what programs say.
func TestEveryCommandThatIsWrittenDownIsThere(t *testing.T) {
	written := map[string]int{}
	look := func(where, text string) {
		for _, line := range commandsIn(text) {
			name, _, _ := strings.Cut(line, " ")
			written[name]++
			if err := try(t, line); err != nil {
				t.Errorf("%s: %s: %v", where, line, err)
			}
		}
	}
	lookInside := func(where string, quotes *regexp.Regexp, text []byte) {
		for _, m := range quotes.FindAllSubmatch(text, -1) {
			look(where, string(m[1]))
		}
	}
	for _, path := range sources(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Ext(path) != ".md" {
			lookInside(path, hinted, text)
			continue
		}
		for _, m := range fenced.FindAllSubmatch(text, -1) {
			if string(m[1]) == "sh" {
				look(path, string(m[2]))
			}
		}
		lookInside(path, spanned, fenced.ReplaceAll(text, nil))
	}
	for _, root := range roots() {
		lookAtExamples(root, look)
	}
	for name, least := range map[string]int{"sluice": 200, "sluiced": 40, "make": 60} {
		if written[name] < least {
			t.Errorf("%d lines with %s were found: the test would hold for nothing", written[name], name)
		}
	}
}

// sources are the pages, and what has messages.
func sources(t *testing.T) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch name := d.Name(); {
		case err != nil:
			return err
		case d.IsDir() && (path != repository && strings.HasPrefix(name, ".") || slices.Contains([]string{"node_modules", "gen", "artifacts", "bin"}, name)):
			return fs.SkipDir
		case name == "Makefile", filepath.Ext(name) == ".md", filepath.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go"), filepath.Base(filepath.Dir(path)) == "scripts":
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func lookAtExamples(c *cobra.Command, look func(where, text string)) {
	look("the example of "+c.CommandPath(), c.Example)
	for _, sub := range c.Commands() {
		lookAtExamples(sub, look)
	}
}

func TestWhatIsNotThereIsFound(t *testing.T) {
	for _, line := range []string{
		"sluice usage", "sluice mesh bundle carry", "sluice mesh install --evoy", "sluice mesh verify --wait soon", "sluiced serve --data",
		"make demos", "make demo STROE=redis",
	} {
		if commands := commandsIn("cat x | " + line + " > y # as written"); !slices.Equal(commands, []string{line}) || try(t, line) == nil {
			t.Errorf("%s: read as %q, and nothing is wrong with it", line, commands)
		}
	}
}

// commandsIn are the calls of ours in a text of shell.
func commandsIn(text string) (lines []string) {
	for _, m := range called.FindAllStringSubmatch(strings.ReplaceAll(text, "\\\n", " "), -1) {
		lines = append(lines, strings.TrimSpace(m[1]))
	}
	return lines
}

func roots() map[string]*cobra.Command {
	return map[string]*cobra.Command{"sluice": cli.Command(), "sluiced": app.Command(nil)}
}

// try says what of a command line is not there.
func try(t *testing.T, line string) error {
	t.Helper()
	words := strings.Fields(line)
	if words[0] == "make" {
		return tryMake(t, words[1:])
	}
	root := roots()[words[0]]
	root.InitDefaultCompletionCmd("completion")
	c, rest, err := root.Find(words[1:])
	if err != nil {
		return err
	}
	c.InitDefaultHelpFlag()
	c.InitDefaultVersionFlag()
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if args := c.Flags().Args(); c.HasSubCommands() && len(args) > 0 {
		return fmt.Errorf("%s has no command %q", c.CommandPath(), args[0])
	}
	return nil
}

func tryMake(t *testing.T, words []string) error {
	t.Helper()
	makefile, err := os.ReadFile(filepath.Join(repository, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range made.FindAllSubmatch(makefile, -1) {
		known[string(m[1])+string(m[2])] = true
	}
	for _, word := range words {
		if name, _, _ := strings.Cut(word, "="); !known[name] {
			return fmt.Errorf("the Makefile has no %s", name)
		}
	}
	return nil
}
