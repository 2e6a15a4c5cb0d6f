package deploy

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// stage is one image of a Dockerfile: its instructions, each a word and the rest.
type stage struct {
	from, name   string
	instructions [][2]string
}

func (s *stage) all(word string) (rest []string) {
	for _, i := range s.instructions {
		if i[0] == word {
			rest = append(rest, i[1])
		}
	}
	return rest
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// stages reads the Dockerfile as far as ours goes.
func stages(t *testing.T) (all []stage) {
	t.Helper()
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(read(t, "../Dockerfile"), "")
	text = regexp.MustCompile(`\\\n\s*`).ReplaceAllString(text, "")
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "":
		case "FROM":
			from, name, _ := strings.Cut(regexp.MustCompile(`--platform=\S+ `).ReplaceAllString(rest, ""), " AS ")
			all = append(all, stage{from: from, name: name})
		default:
			last := &all[len(all)-1]
			last.instructions = append(last.instructions, [2]string{word, rest})
		}
	}
	return all
}

func TestImagesBeginFromWhatIsNamedWithItsVersion(t *testing.T) {
	goes := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))[1]
	var bases, names []string
	for _, s := range stages(t) {
		if !slices.Contains(names, s.from) {
			bases = append(bases, s.from)
		}
		names = append(names, s.name)
	}
	if want := []string{"golang:" + goes, "gcr.io/distroless/static-debian12:nonroot", "gcr.io/distroless/static-debian12:nonroot"}; !slices.Equal(bases, want) {
		t.Errorf("they begin from %q, want %q", bases, want)
	}
}

// TestImagesHaveWhatTheyRun: what is copied is there, what is run was copied, by a user without rights.
func TestImagesHaveWhatTheyRun(t *testing.T) {
	made := map[string]string{"/out/sluiced": "build", "/out/data": "build", "/out/sluice": "build-sluice"}
	for _, s := range stages(t)[2:] {
		there := map[string]bool{}
		for _, c := range s.all("COPY") {
			words := strings.Fields(c)
			from, to := words[len(words)-2], words[len(words)-1]
			there[to] = true
			if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "--from=") }); i >= 0 {
				if made[from] != strings.TrimPrefix(words[i], "--from=") {
					t.Errorf("%s %s is not made there", words[i], from)
				}
			} else if _, err := os.Stat(filepath.Join("..", from)); err != nil || ignored(t, from) {
				t.Errorf("COPY %s: %v, left out of the context: %v", from, err, ignored(t, from))
			}
		}
		entry := strings.Trim(s.all("ENTRYPOINT")[0], `[]"`)
		if !there[entry] || !there["/LICENSE"] || !slices.Equal(s.all("USER"), []string{"65532:65532"}) {
			t.Errorf("%s runs %s as %q and has %v", s.from, entry, s.all("USER"), there)
		}
		for _, v := range s.all("VOLUME") {
			if !there[v] {
				t.Errorf("the volume %s is not made for its user", v)
			}
		}
	}
}

// TestTheDockerfileBuildsAsMakeDoes runs its build commands, on what .dockerignore lets through, and then what they made.
func TestTheDockerfileBuildsAsMakeDoes(t *testing.T) {
	flags := regexp.MustCompile(`(?m)^BUILD_FLAGS := (.*)$`).FindStringSubmatch(read(t, "../Makefile"))[1]
	flags = strings.NewReplacer("'", `"`, "$(VERSION)", "$VERSION").Replace(flags)
	context, out := t.TempDir(), t.TempDir()
	sent(t, context)
	for _, s := range stages(t)[:2] {
		run := regexp.MustCompile(`--mount=\S+ `).ReplaceAllString(s.all("RUN")[0], "")
		binary := regexp.MustCompile(`/out/(sluiced?) `).FindStringSubmatch(run)[1]
		if !strings.HasPrefix(run, "CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build "+flags+" -o ") {
			t.Errorf("it builds by\n%s\nand make with\n%s", run, flags)
		}
		cmd := exec.Command("sh", "-ec", strings.ReplaceAll(run, "/out", out))
		cmd.Dir = context
		cmd.Env = append(os.Environ(), "TARGETOS=linux", "TARGETARCH="+runtime.GOARCH, "VERSION=v-test")
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", run, err, said)
		}
		file, err := elf.Open(filepath.Join(out, binary))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range file.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s wants a loader, of which the image has none", binary)
			}
		}
		_ = file.Close()
		if said, err := exec.Command(filepath.Join(out, binary), "version").Output(); err != nil || !bytes.HasPrefix(said, []byte(binary+" version v-test ")) {
			t.Errorf("%s version: %v, %s", binary, err, said)
		}
	}
	last := stages(t)[3]
	command := strings.Trim(last.all("CMD")[0], `[]"`)
	if said, err := exec.Command(filepath.Join(out, "sluiced"), command, "--help").CombinedOutput(); err != nil || !strings.Contains(string(said), "sluiced "+command) {
		t.Errorf("sluiced %s: %v\n%s", command, err, said)
	}
}

// sent copies what is sent to the builder.
func sent(t *testing.T, to string) {
	t.Helper()
	rules := ignores(t)
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another package's test had it for a moment
		}
		if err != nil {
			return err
		}
		name = filepath.ToSlash(strings.TrimPrefix(strings.TrimPrefix(name, ".."), "/"))
		switch {
		case name == "":
			return nil
		case rules.match(name) && d.IsDir():
			return fs.SkipDir
		case rules.match(name), !d.IsDir() && !d.Type().IsRegular():
			return nil
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		text, err := os.ReadFile(filepath.Join("..", name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o600)
	})
	if err != nil {
		t.Fatal(fmt.Errorf("the context: %w", err))
	}
}

// rules are those of .dockerignore, as far as ours go.
type rules []string

func ignores(t *testing.T) (r rules) {
	t.Helper()
	for line := range strings.Lines(read(t, "../.dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			r = append(r, line)
		}
	}
	return r
}

func ignored(t *testing.T, name string) bool { t.Helper(); return ignores(t).match(name) }

func (r rules) match(name string) bool {
	return slices.ContainsFunc(r, func(rule string) bool {
		below, anywhere := strings.CutPrefix(rule, "**/")
		for at := name; ; {
			if ok, _ := path.Match(below, at); ok {
				return true
			}
			_, rest, more := strings.Cut(at, "/")
			if !anywhere || !more {
				return false
			}
			at = rest
		}
	})
}
