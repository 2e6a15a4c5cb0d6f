// Package forward connects to ports of pods through the API server, as kubectl
// port-forward does, for who reads a proxy's administration or shows a console.
// It needs the right to pods/portforward. A connection costs a connection to the API server.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	forward "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Dial connects to a port of a pod. The connection ends with its context.
type Dial func(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error)

// Dialer opens no port here: whoever else is on this machine sees no proxy's
// administration. One connection is one forwarding.
func Dialer(config *rest.Config) Dial {
	config = rest.CopyConfig(config)
	config.Timeout = 0 // it would end the connection, not only its beginning
	api := sync.OnceValues(func() (*rest.RESTClient, error) {
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath, c.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", scheme.Codecs.WithoutConversion()
		return rest.RESTClientFor(c)
	})
	return func(ctx context.Context, pod types.NamespacedName, port int) (net.Conn, error) {
		api, err := api()
		if err != nil {
			return nil, err
		}
		at := api.Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("portforward").URL()
		overWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(at, config)
		if err != nil {
			return nil, err
		}
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		d := portforward.NewFallbackDialerForStreaming(overWebSocket, spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, at), func(err error) bool {
			return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
		})
		connection, err := connect(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("forwarding to port %d of Pod %s: %w", port, pod, err)
		}
		conn, err := stream(ctx, connection, port)
		if err != nil {
			_ = connection.Close()
			return nil, fmt.Errorf("forwarding to port %d of Pod %s: %w", port, pod, err)
		}
		return conn, nil
	}
}

// connect dials; the dialers know no context, so what comes too late is closed.
func connect(ctx context.Context, d httpstream.Dialer) (httpstream.Connection, error) {
	type dialled struct {
		connection httpstream.Connection
		err        error
	}
	done := make(chan dialled, 1)
	go func() {
		c, _, err := d.Dial(forward.PortForwardV1Name)
		done <- dialled{c, err}
	}()
	select {
	case r := <-done:
		return r.connection, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.connection.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// stream opens the two streams of one forwarded connection: what goes wrong, and the bytes.
func stream(ctx context.Context, c httpstream.Connection, port int) (net.Conn, error) {
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	problems, err := c.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	_ = problems.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := c.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	f := &forwarded{Stream: data, connection: c, said: make(chan string, 1)}
	go func() {
		text, _ := io.ReadAll(io.LimitReader(problems, 1000))
		f.said <- string(text)
	}()
	f.stop = context.AfterFunc(ctx, func() { _ = c.Close() })
	return f, nil
}

// forwarded is a stream as a connection. Deadlines are the context's.
type forwarded struct {
	httpstream.Stream
	connection httpstream.Connection
	said       chan string
	stop       func() bool
}

// Read says why, if the kubelet said why nothing comes.
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.Stream.Read(p)
	if errors.Is(err, io.EOF) && n == 0 {
		select {
		case text := <-f.said:
			if text != "" {
				return 0, errors.New(text)
			}
		default:
		}
	}
	return n, err
}

func (f *forwarded) Close() error {
	f.stop()
	_ = f.Reset()
	return f.connection.Close()
}

func (f *forwarded) LocalAddr() net.Addr              { return podAddr{} }
func (f *forwarded) RemoteAddr() net.Addr             { return podAddr{} }
func (f *forwarded) SetDeadline(time.Time) error      { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (f *forwarded) SetWriteDeadline(time.Time) error { return nil }

type podAddr struct{}

func (podAddr) Network() string { return "portforward" }
func (podAddr) String() string  { return "pod" }
