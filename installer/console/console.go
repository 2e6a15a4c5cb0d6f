// Package console shows the consoles beside a mesh (Kiali, Jaeger, Prometheus, Grafana)
// on this machine. Nothing of them is open to a network: they are reached through the API server, with
// the rights of whoever calls, and only on the loopback address here.
package console

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/forward"
	"github.com/voicecore-ai/sluice/installer/profile"
)

// console is where one listens, in the cluster and, if the port is free, here.
type console struct {
	name, path string
	port       int32
	enabled    func(v *profile.Values) bool
}

var consoles = []console{
	{"kiali", "/kiali", 20001, func(v *profile.Values) bool { return v.Addons.Kiali.Enabled }},
	{"jaeger", "/", 16686, func(v *profile.Values) bool { return v.Addons.Jaeger.Enabled }},
	{"prometheus", "/", 9090, func(v *profile.Values) bool { return v.Addons.Prometheus.Enabled }},
	{"grafana", "/", 3000, func(v *profile.Values) bool { return v.Addons.Grafana.Enabled }},
}

// Names are those of the consoles.
func Names() (out []string) {
	for _, c := range consoles {
		out = append(out, c.name)
	}
	return out
}

// Options say which console.
type Options struct {
	Cluster *cluster.Cluster
	// Mesh is what is installed.
	Mesh *cluster.Mesh
	Name string
	// Port on the loopback address; 0 is the console's own, or any if that is taken.
	Port int
	// Failed hears why a connection came to nothing.
	Failed func(error)
}

// Open is a console that can be seen.
type Open struct {
	// URL is where.
	URL string

	listener net.Listener
	dial     forward.Dial
	to       forward.Target
	failed   func(error)
}

// Listen opens a port here for a console, after it was seen that somebody answers there. Call Serve next.
func Listen(ctx context.Context, o Options) (*Open, error) {
	i := slices.IndexFunc(consoles, func(c console) bool { return c.name == o.Name })
	if i < 0 {
		return nil, fmt.Errorf("there is no console %q; one of %s", o.Name, strings.Join(Names(), ", "))
	}
	c := consoles[i]
	if !c.enabled(o.Mesh.Values) {
		return nil, fmt.Errorf("%w: %s is no part of this mesh; install it with --set addons.%s.enabled=true", cluster.ErrRefused, c.name, c.name)
	}
	config := o.Cluster.REST()
	reader, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	to := forward.Service(reader, types.NamespacedName{Namespace: o.Mesh.Values.Addons.Namespace, Name: c.name}, c.port)
	if _, _, err := to(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", cluster.ErrNotReady, err)
	}
	l, err := listen(ctx, o.Port, int(c.port))
	if err != nil {
		return nil, err
	}
	return &Open{URL: "http://" + l.Addr().String() + c.path, listener: l, dial: forward.Dialer(config), to: to, failed: o.Failed}, nil
}

// listen takes the port that is wanted, or else the usual one, or else any.
func listen(ctx context.Context, wanted, usual int) (net.Listener, error) {
	var lc net.ListenConfig
	at := func(port int) (net.Listener, error) {
		return lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	if wanted != 0 {
		l, err := at(wanted)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("port %d is taken on this machine; choose another with --port, or leave it out", wanted)
		}
		return l, err
	}
	l, err := at(usual)
	if errors.Is(err, syscall.EADDRINUSE) {
		return at(0)
	}
	return l, err
}

// Serve carries connections until the context ends.
func (o *Open) Serve(ctx context.Context) error {
	return forward.Serve(ctx, o.listener, o.dial, o.to, o.failed)
}
