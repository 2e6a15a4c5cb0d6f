// Package loopback finds ports of 127.0.0.1 for processes that are told where to listen.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"time"
)

// The ports that are given out lie below those that Linux gives to outgoing connections (from 32768 on): a
// connection that somebody opens meanwhile takes none of them.
const (
	lowest, above = 12_000, 28_000
	attempts      = 1000
	reserved      = time.Hour // longer than any test runs
)

// Ports returns n different ports, in decimal, on which nobody listened a moment ago. Nobody else on this machine who
// asks here gets one of them within an hour, while this process lives: who is to listen there can be started, killed and started
// again, and nobody answers meanwhile. It costs an open file a port.
func Ports(n int) (ports []string, err error) {
	held := make([]net.Listener, 0, n)
	for try := 0; len(held) < n && try < n+attempts; try++ {
		port := strconv.Itoa(lowest + rand.IntN(above-lowest)) //nolint:gosec // a port is no secret
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err != nil {
			continue
		}
		if err = reserve(port); err != nil {
			err = errors.Join(err, l.Close())
			continue
		}
		held, ports = append(held, l), append(ports, port)
	}
	if len(held) == n {
		err = nil
	}
	for _, l := range held {
		err = errors.Join(err, l.Close())
	}
	if err != nil {
		return nil, err
	}
	return ports, nil
}

// reserve takes the port's name among Linux's abstract sockets, which end with the process and are no files. There is
// no such thing elsewhere: there two that ask at once rarely get the same port.
func reserve(port string) error {
	if runtime.GOOS != "linux" {
		return nil
	}
	l, err := net.Listen("unix", "@sluice/loopback/"+port)
	if err != nil {
		return err
	}
	time.AfterFunc(reserved, func() { _ = l.Close() })
	return nil
}
