package box

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m.Run)) }

func run(t *testing.T, s Spec) string {
	t.Helper()
	if s.Name == "" {
		s.Name = strconv.Itoa(len(t.Name()))
	}
	var out strings.Builder
	s.Stdout, s.Stderr = &out, os.Stderr
	s.Env = append(s.Env, "PATH="+os.Getenv("PATH"))
	cmd, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := Remove(s.Name); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

func TestABoxLooksLikeAContainer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "said"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := run(t, Spec{
		Hostname: "pod-1", User: 1337, Group: 1337, Dir: "/etc/istio/pod", Env: []string{"A=b"},
		Mounts: []Mount{{Source: dir, Target: "/etc/istio/pod", ReadOnly: true}, {Source: dir + "/said", Target: "/var/run/secrets/x/token"}},
		Args: []string{"sh", "-c", `echo $(hostname) $(id -u):$(id -g) $$ $A $(cat said) $(cat /var/run/secrets/x/token) $(pwd)
			touch said 2>/dev/null && echo wrote a read-only mount; set -- /proc/[0-9]*; echo $#`},
	})
	// The shell; nothing of the machine's processes.
	if want := "pod-1 1337:1337 1 b hello hello /etc/istio/pod\n1"; got != want {
		t.Errorf("the box said %q, want %q", got, want)
	}
	if _, err := os.Stat("/etc/istio"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the machine has the box's files: %v", err)
	}
}

func TestTheFileSystemOfABox(t *testing.T) {
	const script = "touch /etc/written 2>/dev/null && echo written || echo refused"
	t.Run("is writable, and nothing of it stays", func(t *testing.T) {
		if got := run(t, Spec{Args: []string{"sh", "-c", script}}); got != "written" {
			t.Errorf("got %q", got)
		}
		if _, err := os.Stat("/etc/written"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the machine has what the box wrote: %v", err)
		}
	})
	t.Run("is not writable when it should be read-only", func(t *testing.T) {
		if got := run(t, Spec{ReadOnly: true, Args: []string{"sh", "-c", script}}); got != "refused" {
			t.Errorf("got %q", got)
		}
	})
}

func TestBoxesReachEachOther(t *testing.T) {
	n, err := NewNetwork()
	if err != nil {
		t.Fatal(err)
	}
	addrs := map[string]netip.Addr{}
	for _, name := range []string{"a", "b"} {
		if addrs[name], err = n.Add(name); err != nil {
			t.Fatal(err)
		}
	}
	var l net.Listener
	if err := In("a", func() (err error) { l, err = net.Listen("tcp", ":80"); return err }); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	dial := func() (string, error) {
		c, err := net.DialTimeout("tcp", addrs["a"].String()+":80", time.Minute)
		if err != nil {
			return "", err
		}
		defer c.Close()
		said, err := io.ReadAll(c)
		return string(said), err
	}
	var said string
	if err := In("b", func() (err error) { said, err = dial(); return err }); err != nil || said != addrs["b"].String() {
		t.Errorf("from b: %q, %v; want its address %s", said, err, addrs["b"])
	}
	if said, err = dial(); err != nil || said != Node.String() {
		t.Errorf("from the node: %q, %v; want its address %s", said, err, Node)
	}
	if err := n.Remove("a", addrs["a"]); err != nil {
		t.Fatal(err)
	}
	if said, err = dial(); err == nil {
		t.Errorf("a network that was removed answers %q", said)
	}
	if again, err := n.Add("c"); err != nil || again != addrs["a"] {
		t.Errorf("the next network has %s, %v; want the address that is free, %s", again, err, addrs["a"])
	}
}

func TestWhatABoxStartedEndsWithIt(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := Start(Spec{
		Name: "parent", Args: []string{"sh", "-c", "sleep 1000 & sleep 1000 & echo both; wait"},
		Env: []string{"PATH=" + os.Getenv("PATH")}, Stdout: write, Stderr: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(read, make([]byte, len("both"))); err != nil {
		t.Fatal(err)
	}
	// The shell goes on before what it started has become another program.
	for end := time.Now().Add(time.Minute); sleepers(t) != 2; <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d processes run in the box, want 2", sleepers(t))
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if n := sleepers(t); n != 0 {
		t.Errorf("%d processes outlive their box", n)
	}
}

func sleepers(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", "grep -lz '^1000$' /proc/[0-9]*/cmdline 2>/dev/null | wc -l").Output()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Sscan(string(out), &n); err != nil {
		t.Fatal(err)
	}
	return n
}
