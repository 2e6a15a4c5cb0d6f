package redistest

import (
	"net"
	"testing"
)

// Piece says how many of b, which came in one read, are passed on, and whether the connection
// ends then. Answers are what Redis says. Both ways of a connection call it, at once.
type Piece func(b []byte, answers bool) (keep int, last bool)

// Proxy stands before a server, and asks about all that goes through it. Each connection has the Piece
// that begin returns for it. It ends with the test.
func Proxy(t testing.TB, to string, begin func() Piece) (addr string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			piece := begin()
			go carry(server, client, piece, false)
			go carry(client, server, piece, true)
		}
	}()
	return l.Addr().String()
}

// carry takes bytes one way until that ends, and then ends the other.
func carry(to, from net.Conn, piece Piece, answers bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	for b := make([]byte, 64<<10); ; {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		keep, last := piece(b[:n], answers)
		if _, err := to.Write(b[:keep]); err != nil || last {
			return
		}
	}
}
