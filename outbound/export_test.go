package outbound

import (
	"context"
	"net"
	"net/netip"
)

// WithDial returns o with another way to connect, after every check.
func (o Options) WithDial(dial func(context.Context, netip.AddrPort) (net.Conn, error)) Options {
	o.dial = dial
	return o
}

// Proxied reports whether a request could go through a proxy. The environment is read once in a
// process, so a test can't set it.
func (c *Client) Proxied() bool { return c.public.Proxy != nil || c.private.Proxy != nil }
