package box

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what runs in a box.
type Spec struct {
	Name     string // of its folder under [Dir]; no two boxes share one
	Network  string // the name given to [Network.Add]
	Hostname string
	Mounts   []Mount
	Args     []string // the program, an absolute path or a name in PATH, and its arguments
	Env      []string // all of it
	Dir      string   // working folder; "" means /
	User     int
	Group    int
	ReadOnly bool // its own file system; mounts keep their own say
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
}

// Mount shows a file or folder of this machine at a path in the box.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// plan is what the new process is told.
type plan struct {
	Root string
	Spec
}

// Start starts the process. Killing it kills all that it started.
func Start(s Spec) (*exec.Cmd, error) {
	home := filepath.Join(Dir, "boxes", s.Name)
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o755); err != nil {
			return nil, err
		}
	}
	said, err := json.Marshal(plan{Root: home, Spec: Spec{
		Network: s.Network, Hostname: s.Hostname, Mounts: s.Mounts, Args: s.Args, Env: s.Env,
		Dir: s.Dir, User: s.User, Group: s.Group, ReadOnly: s.ReadOnly,
	}})
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = read.Close() }()
	defer func() { _ = write.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{boxArg}
	cmd.Env = []string{}
	cmd.ExtraFiles = []*os.File{read}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Stdout, s.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	cmd.WaitDelay = 10 * time.Second // an input that nobody closes holds nothing up for ever; output that is not read by then is lost
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a box for %s: %w", s.Name, err)
	}
	if _, err := write.Write(said); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// Remove forgets the files of a box whose process has ended.
func Remove(name string) error { return os.RemoveAll(filepath.Join(Dir, "boxes", name)) }

// enter is the new process: it becomes the program that the plan names.
func enter() error {
	// Namespaces are a thread's.
	runtime.LockOSThread()
	pipe := os.NewFile(3, "plan")
	var p plan
	if err := json.NewDecoder(pipe).Decode(&p); err != nil {
		return fmt.Errorf("reading the plan of a box: %w", err)
	}
	if err := pipe.Close(); err != nil {
		return err
	}
	if err := p.isolate(); err != nil {
		return fmt.Errorf("the box of %s: %w", p.Args[0], err)
	}
	os.Clearenv()
	for _, pair := range p.Env {
		name, value, _ := strings.Cut(pair, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	program, err := exec.LookPath(p.Args[0])
	if err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{p.Group}); err != nil {
		return err
	}
	if err := syscall.Setgid(p.Group); err != nil {
		return err
	}
	if err := syscall.Setuid(p.User); err != nil {
		return err
	}
	return fmt.Errorf("running %s: %w", program, syscall.Exec(program, p.Args, p.Env))
}

func (p *plan) isolate() error {
	if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
		return err
	}
	if p.Network != "" {
		if err := join(p.Network); err != nil {
			return err
		}
	}
	root := filepath.Join(p.Root, "root")
	layers := fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", p.Root, p.Root)
	if err := unix.Mount("overlay", root, "overlay", 0, layers); err != nil {
		return fmt.Errorf("a copy of the file system (overlayfs): %w", err)
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	mounts := append([]Mount{{Source: "/dev", Target: "/dev"}, {Source: "/sys", Target: "/sys"}}, p.Mounts...)
	// A folder before what is shown inside it.
	slices.SortStableFunc(mounts, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	for _, m := range mounts {
		if err := m.bind(root); err != nil {
			return fmt.Errorf("showing %s at %s: %w", m.Source, m.Target, err)
		}
	}
	if p.ReadOnly {
		if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("making the file system read-only: %w", err)
		}
	}
	if err := unix.Chroot(root); err != nil {
		return err
	}
	return os.Chdir(cmp.Or(p.Dir, "/"))
}

func (m Mount) bind(root string) error {
	target, err := resolve(root, m.Target)
	if err != nil {
		return err
	}
	about, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if about.IsDir() {
		err = os.MkdirAll(target, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(m.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if !m.ReadOnly {
		return nil
	}
	return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// resolve finds a path of the box, following the links on its way as the box would: /var/run is one.
func resolve(root, target string) (string, error) {
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean(target), "/"), "/") {
		at = filepath.Join(at, part)
		for range 8 {
			to, err := os.Readlink(filepath.Join(root, at))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
				break // new, or no link
			}
			if err != nil {
				return "", err
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(at), to)
			}
			at = filepath.Clean(to)
		}
	}
	return filepath.Join(root, at), nil
}
