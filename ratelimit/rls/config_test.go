package rls

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voicecore-ai/sluice/ratelimit"
)

var update = flag.Bool("update", false, "write the .err files")

func TestEachBadFileIsRefusedWithItsMessage(t *testing.T) {
	t.Chdir("testdata/bad")
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 40 {
		t.Fatal("bad files are missing", err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			_, err := Load(file)
			if err == nil {
				t.Fatal("loaded")
			}
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

func TestProblemsOfAllFilesComeTogether(t *testing.T) {
	_, err := Load("testdata/bad/unit_typo.yaml", "testdata/bad/key_missing.yaml", "testdata/bad/no_such_file.yaml")
	problems, ok := err.(Problems) //nolint:errorlint // Load says that it is
	if !ok || len(problems) != 4 {
		t.Fatalf("got %v", err)
	}
	if p := problems[0]; p.Line != 3 || p.Field != "descriptors[0].rate_limit.unit" || p.Remedy == "" {
		t.Errorf("got %+v", p)
	}
}

func TestADomainInTwoFilesIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.yaml", "b.yaml"} {
		write(t, filepath.Join(dir, name), "domain: d\n")
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is described at") {
		t.Errorf("got %v", err)
	}
}

func TestADirectoryLoadsWithoutHiddenAndTemporaryFiles(t *testing.T) {
	c := load(t)
	if got, want := c.Domains(), []string{"anchors", "extensions", "messaging", "separators"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A ConfigMap is mounted as links into a hidden directory that is swapped.
func TestADirectoryOfLinksLoads(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "..2026", "d.yaml"), "domain: d\n")
	for from, to := range map[string]string{"..data": "..2026", "d.yaml": "..data/d.yaml"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(dir)
	if err != nil || !slices.Equal(c.Domains(), []string{"d"}) {
		t.Errorf("got %v, %v", c, err)
	}
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil {
		t.Error("a dangling link was loaded")
	}
}

func TestLimitsAreCompiledAsWritten(t *testing.T) {
	c := load(t)
	day := 24 * time.Hour
	for _, test := range []struct {
		domain, key string
		want        ratelimit.Limit
	}{
		{"messaging", "kind", ratelimit.Limit{Hits: 5, Window: time.Second, OnOutage: ratelimit.OutageLocal}},
		{"messaging", "banned", ratelimit.Limit{Hits: 0, Window: time.Second, OnOutage: ratelimit.OutageLocal}},
		{"messaging", "watched", ratelimit.Limit{Hits: 1, Window: time.Hour, Shadow: true, Durable: true}},
		{"messaging", "week", ratelimit.Limit{Hits: 9, Window: 7 * day, Durable: true}},
		{"messaging", "month", ratelimit.Limit{Hits: 7, Window: 30 * day, Durable: true}},
		{"messaging", "year", ratelimit.Limit{Hits: 8, Window: 365 * day, Durable: true}},
		{"extensions", "smooth", ratelimit.Limit{Algorithm: ratelimit.GCRA, Hits: 10, Window: time.Second, Burst: 3, OnOutage: ratelimit.OutageAllow, OutageSaid: true}},
		{"extensions", "strict", ratelimit.Limit{Algorithm: ratelimit.Hard, Hits: 3, Window: time.Minute, OnOutage: ratelimit.OutageLocal}},
		{"extensions", "half_hour", ratelimit.Limit{Hits: 4, Window: 30 * time.Minute, Durable: true}},
	} {
		t.Run(test.domain+"/"+test.key, func(t *testing.T) {
			r, _, _ := c.domains[test.domain].match([]entry{{[]byte(test.key), []byte("anything")}}, nil)
			if r == nil {
				t.Fatal("no rule")
			}
			test.want.Name = test.domain + "." + test.key
			if test.want.Algorithm == 0 {
				test.want.Algorithm = ratelimit.Fixed
			}
			if *r.limit != test.want {
				t.Errorf("got  %+v\nwant %+v", *r.limit, test.want)
			}
		})
	}
}

// A file may be hostile too: 10 KiB must not cost a MiB of live heap, and
// nothing may panic.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.y*ml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(content)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		l := &loader{file: "f", left: 1000}
		c := &Config{domains: map[string]*domain{}}
		l.parse(c, map[string]string{}, content)
		if len(l.problems) == 0 && len(c.domains) == 0 {
			t.Error("neither a domain nor a problem")
		}
		runtime.KeepAlive(c)
	})
}

func load(t testing.TB) *Config {
	t.Helper()
	c, err := Load("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
