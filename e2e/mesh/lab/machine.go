package lab

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"testing"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// Machine is one that is in no mesh and no cluster, only in DNS.
type Machine struct {
	// Cert and Key are files with a certificate for its name and for 127.0.0.1, by the authority in CA.
	Cert, Key, CA string

	network string
}

// Machine adds one until the test ends.
func (c *Cluster) Machine(t testing.TB, name string) *Machine {
	t.Helper()
	m := &Machine{network: "outside-" + name, CA: c.ca.file("ca.crt")}
	addr, err := c.network.Add(m.network)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.network.Remove(m.network, addr); err != nil {
			t.Error(err)
		}
	})
	pair, err := c.ca.server(name, []net.IP{net.IPv4(127, 0, 0, 1)}, name)
	if err != nil {
		t.Fatal(err)
	}
	m.Cert, m.Key = pair.cert, pair.key
	c.names.add(name, addr)
	return m
}

// Start runs a program there until the test ends.
func (m *Machine) Start(t testing.TB, program string, args ...string) {
	t.Helper()
	cmd, out := exec.Command(program, args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := box.In(m.network, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if _ = cmd.Wait(); t.Failed() {
			t.Logf("%s said:\n%s", program, out)
		}
	})
}

// Run runs a program there to its end and returns what it prints.
func (m *Machine) Run(program string, args ...string) (string, error) {
	cmd, out := exec.Command(program, args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := box.In(m.network, cmd.Start); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return out.String(), nil
}

// Outside is a server on a machine of its own.
func (c *Cluster) Outside(t testing.TB, name string, port int, h http.Handler) {
	t.Helper()
	t.Cleanup(serve(t, c.Machine(t, name).network, port, h))
}
