package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sluiced": main})
}

// TestCommandLine runs the scripts of testdata, in which sluiced is a command.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"answers": answers, "busy": busy, "stranger": stranger,
		},
	})
}

// answers SOCKET waits until something accepts connections on a Unix socket.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for {
		conn, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err == nil {
			_ = conn.Close()
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			ts.Fatalf("nobody listens after a minute: %v", err)
		}
	}
}

// busy VARIABLE takes a port until the script ends and puts its address into the variable.
func busy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// stranger FOLDER ARGS... runs sluiced as a user to whom the folder is closed,
// expects it to fail, and writes what it says to the file "output".
func stranger(ts *testscript.TestScript, _ bool, args []string) {
	folder := ts.MkAbs(args[0])
	ts.Check(os.Chmod(folder, 0))
	defer func() { _ = os.Chmod(folder, 0o700) }()
	self, err := os.Open("/proc/self/exe")
	ts.Check(err)
	defer self.Close() //nolint:errcheck // only run
	// The folders above the binary may be closed to the other user; an open file is not.
	cmd := exec.Command("/proc/self/fd/3", args[1:]...)
	cmd.Args[0], cmd.ExtraFiles = "sluiced", []*os.File{self}
	if os.Geteuid() == 0 { // nothing is closed to root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
		ts.Fatalf("want exit status 1, got %v:\n%s", err, output.String())
	}
	ts.Check(os.WriteFile(ts.MkAbs("output"), output.Bytes(), 0o600))
}
