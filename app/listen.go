package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

func (a *App) listen() error {
	for _, setting := range []struct {
		name, address string
		open          func(string) (net.Listener, error)
	}{
		{"grpc-listen", a.config.GRPCListen, listenTCP},
		{"uds", a.config.UDS, listenUnix},
		{"http-listen", a.config.HTTPListen, listenTCP},
		{"status-listen", a.config.StatusListen, listenTCP},
	} {
		if setting.address == "" {
			continue
		}
		l, err := setting.open(setting.address)
		if err != nil {
			return fmt.Errorf("%s %s: %w", setting.name, setting.address, err)
		}
		a.listeners[setting.name] = l
		a.teardown.add(func(context.Context) error {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}

func listenTCP(address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errors.New("another process listens there; stop it ('ss -ltnp' names it), or choose another port")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, errors.New("this machine has no such address; 'ip address' lists those it has")
	case errors.Is(err, fs.ErrPermission):
		return nil, errors.New("this user may not listen there; choose a port above 1023")
	}
	return l, err
}

// listenUnix listens on a socket that only its owner and group can open. A
// socket that a crash left is replaced; anything else at the path is not.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errors.New("there is something that is no socket; remove it, or choose another path")
		}
		if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "unix", path); err == nil {
			return nil, errors.Join(errors.New("another process listens on this socket; stop it, or choose another path"), conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no folder %s; make it first, writable for the user that runs sluiced", filepath.Dir(path))
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("this user may not write to %s; choose another path, or give the folder to the user that runs sluiced", filepath.Dir(path))
	case err != nil:
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // Envoy may run as another user of the group
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Addr is where a setting's listener listens ("grpc-listen", "uds", "http-listen", "status-listen"); nil if it doesn't.
func (a *App) Addr(setting string) net.Addr {
	if l := a.listeners[setting]; l != nil {
		return l.Addr()
	}
	return nil
}
