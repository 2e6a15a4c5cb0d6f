// Package box runs processes the way containers run, with nothing but this machine's own
// files: each in mount, process and network namespaces of its own, on a writable copy of
// the file system that vanishes with it. It needs root, and no image, daemon or cgroup.
//
// It is not a sandbox: root in a box is root on the machine, and memory and CPU are not
// limited. It gives tests the paths, users, addresses and packet filters that a pod has.
//
// A program that uses it calls [Main] first: boxes are started by running the program
// again, and so is the program's own place, a set of namespaces whose end, for whatever
// reason, is the end of every process, address, mount and file in them.
package box

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program finds in its first argument that it was run again, and as what.
const (
	placeArg = "lab-place"
	boxArg   = "lab-box"
)

// Dir is where boxes, their files and their logs are: in memory, and only in the program's own place.
const Dir = "/run/lab"

// Main runs f in a place of its own and returns its exit code. In a box it never returns.
// If the calling process or its parent is killed, the kernel kills all that f started.
func Main(f func() int) int {
	code, err := route(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return code
}

func route(f func() int) (int, error) {
	switch os.Args[0] {
	case boxArg:
		return 1, enter()
	case placeArg:
		if err := furnish(); err != nil {
			return 1, err
		}
		return f(), nil
	}
	if os.Geteuid() != 0 {
		return 1, errors.New("making namespaces needs root; run the mesh's tests as root (make test-mesh)")
	}
	// The kernel sends the death signal when the thread that started the child ends, and keeps the wish with the thread that had it.
	runtime.LockOSThread()
	// 'go test' passes no SIGTERM on: its end must be ours.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return 1, err
	}
	inner := exec.Command("/proc/self/exe")
	inner.Args = append([]string{placeArg}, os.Args[1:]...)
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := inner.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	if errors.Is(err, unix.EPERM) {
		err = fmt.Errorf("this machine lets not even root make namespaces; in a container, run it privileged: %w", err)
	}
	return 0, err
}

// furnish makes the new namespaces usable. /run is fresh, because ip, iptables and boxes keep state there;
// temporary files are there too, so that a killed test leaves none.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts can't be made private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	temporary := filepath.Join(Dir, "tmp")
	if err := os.MkdirAll(temporary, 0o755); err != nil {
		return err
	}
	if err := os.Setenv("TMPDIR", temporary); err != nil {
		return err
	}
	return ip("link set lo up")
}
