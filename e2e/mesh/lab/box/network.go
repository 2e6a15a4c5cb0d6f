package box

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The addresses of the place. They exist in its namespaces only, so two places don't meet.
var (
	// Node is the address of the place itself; what runs outside boxes listens here.
	Node = netip.MustParseAddr("10.244.0.1")
	// Pods is where boxes' addresses are taken from.
	Pods = netip.MustParsePrefix("10.244.0.0/16")
)

// Network gives boxes addresses. Each network is a namespace joined to the place by a
// virtual cable and routed, not bridged, so that the place's packet filter sees all traffic, as a
// node's does.
type Network struct {
	mu   sync.Mutex
	last netip.Addr
	free []netip.Addr
}

// NewNetwork turns the place into a node. Nobody has the virtual addresses: the packet filter leads
// them elsewhere, and the node needs a way to there for it to see what the node itself sends.
func NewNetwork(virtual ...netip.Prefix) (*Network, error) {
	if err := set("ip_forward", "1"); err != nil {
		return nil, err
	}
	// An interface that leads nowhere, because some programs believe no address of lo.
	commands := []string{"addr replace " + Node.String() + "/32 dev node", "link set node up"}
	if _, err := net.InterfaceByName("node"); err != nil {
		commands = append([]string{"link add node type veth peer name nowhere", "link set nowhere up"}, commands...)
	}
	for _, v := range virtual {
		commands = append(commands, "route replace "+v.String()+" dev node src "+Node.String())
	}
	return &Network{last: Node}, ip(commands...)
}

// Add makes a network and returns its address.
func (n *Network) Add(name string) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr := n.last.Next()
	if len(n.free) > 0 {
		addr, n.free = n.free[0], n.free[1:]
	} else {
		n.last = addr
	}
	cable := cable(addr)
	err := ip(
		"netns add "+name,
		"link add "+cable+" type veth peer name eth0 netns "+name,
		"link set "+cable+" up",
		"route add "+addr.String()+"/32 dev "+cable,
	)
	if err != nil {
		return addr, err
	}
	return addr, In(name, func() error {
		// As container runtimes do: a pod's user may listen on port 80.
		if err := set("ip_unprivileged_port_start", "0"); err != nil {
			return err
		}
		return ip(
			"link set lo up", "addr add "+addr.String()+"/32 dev eth0", "link set eth0 up",
			"route add "+Node.String()+" dev eth0", "route add default via "+Node.String(),
		)
	})
}

// Remove cuts a network off and lets its address be used again.
func (n *Network) Remove(name string, addr netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := ip("link del "+cable(addr), "netns del "+name); err != nil {
		return err
	}
	n.free = append(n.free, addr)
	return nil
}

// cable is the name of the node's end.
func cable(addr netip.Addr) string {
	b := addr.As4()
	return fmt.Sprintf("pod%d-%d", b[2], b[3])
}

// In runs f in a network: sockets it makes belong there for good, whoever uses them. f must not start goroutines for that.
func In(name string, f func() error) error {
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine, so nobody else finds himself there.
		runtime.LockOSThread()
		if err := join(name); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func join(name string) error {
	f, err := os.Open("/run/netns/" + name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("joining the network %s: %w", name, err)
	}
	return nil
}

// set turns one of the kernel's switches for IPv4, in the calling thread's network.
func set(name, value string) error {
	return os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644)
}

// ip gives commands to iproute2; the calling thread's network is meant.
func ip(commands ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(commands, "; "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
