// Package redisconn makes the client of a shared Redis out of settings, and says
// in one sentence what is wrong with the way there. Parse reads the URL, New makes
// the client, Check asks whether what answers is what the URL says.
//
// It knows connections, not what is kept in Redis: that is for who uses the client.
//
// The client of one server or of Sentinels never sends a command again by itself. That of a
// cluster does: where a key is elsewhere, and a pipeline whose answer was lost, up to three
// times. What must count once needs an id that Redis knows it by.
//
// Nothing goes over plain text to another machine, whatever address Sentinel or a cluster
// names, unless the client was told to. Redis' password and the certificates are read from
// their files for every new connection, so that a renewed one needs no restart; the Sentinels'
// password is read by New alone, for go-redis takes it as text.
package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options say where Redis is and who asks.
type Options struct {
	Target Target

	User                 string // "" for the user "default"
	PasswordFile         string // "" for no password
	SentinelUser         string // of the Sentinels, which have users of their own
	SentinelPasswordFile string

	CAFile   string // PEM; "" for the system's
	CertFile string // PEM of a client certificate; "" for none
	KeyFile  string
	// PlainText lets the connection to another machine be plain text. Who can read it reads every
	// password and counter; who can write it decides who is admitted.
	PlainText bool

	Dial        time.Duration // for a connection, its TLS handshake included; default 1 s
	Timeout     time.Duration // for one answer, whatever more the caller would wait; default 1 s
	Connections int           // most to each node; default 64. A caller beyond that gets an error
}

// The defaults of Options.
const (
	defaultDial        = time.Second
	defaultTimeout     = time.Second
	redirect           = time.Millisecond
	defaultConnections = 64
)

// refusals is the size of the pool, which holds no connection by it: MaxActiveConns bounds those. After as many refused dials as
// the pool is large the client dials once a second only, so a small one would make each outage up to a second longer.
const refusals = 1 << 16

// idle is after how long without use a connection is closed: below what firewalls and proxies forget after.
const idle = 5 * time.Minute

// New makes the client and dials nobody. The error says of every setting at once what is wrong with it.
func New(o Options) (redis.UniversalClient, error) {
	if err := errors.Join(o.Validate(), o.readable()); err != nil {
		return nil, err
	}
	u, err := o.universal()
	if err != nil {
		return nil, err
	}
	return redis.NewUniversalClient(u), nil
}

// Validate says which settings do not go together, all at once. It opens no file.
func (o *Options) Validate() error {
	var problems []error
	if !o.Target.TLS {
		if o.CAFile != "" || o.CertFile != "" || o.KeyFile != "" {
			problems = append(problems, fmt.Errorf("redis-ca, redis-cert, redis-key: do nothing while the URL says plain text; write %s, or leave them out", o.Target.encrypted()))
		}
		if far := o.Target.remote(); far != "" && !o.PlainText {
			problems = append(problems, plainText(far, o.Target.encrypted()))
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		problems = append(problems, errors.New("redis-cert, redis-key: one without the other; give both, or neither"))
	}
	for _, f := range []struct{ setting, user, path string }{
		{"redis-password-file", o.User, o.PasswordFile}, {"redis-sentinel-password-file", o.SentinelUser, o.SentinelPasswordFile},
	} {
		if f.path == "" && f.user != "" {
			problems = append(problems, fmt.Errorf("%s: empty, and user %q can't prove itself without; name a file that holds the password", f.setting, f.user))
		}
	}
	if o.Target.Kind != Sentinel && (o.SentinelUser != "" || o.SentinelPasswordFile != "") {
		problems = append(problems, errors.New("redis-sentinel-user, redis-sentinel-password-file: do nothing while the URL names no Sentinel; leave them out, or write redis+sentinel://"))
	}
	return errors.Join(problems...)
}

// readable reads every file once, so that one that is not there is known before anything is dialled.
func (o *Options) readable() error {
	var problems []error
	if o.Target.TLS && (o.CertFile == "") == (o.KeyFile == "") {
		_, err := o.tls("")
		problems = append(problems, err)
	}
	for setting, path := range map[string]string{"redis-password-file": o.PasswordFile, "redis-sentinel-password-file": o.SentinelPasswordFile} {
		_, err := password(setting, path)
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

func plainText(address, encrypted string) error {
	return fmt.Errorf("redis-url: plain text to %s, which is another machine: who is on the way reads the password and can change who is admitted; "+
		"write %s (Redis' tls-port), or say redis-plaintext if the way is encrypted by something else", address, encrypted)
}

func (o *Options) universal() (*redis.UniversalOptions, error) {
	sentinel, err := password("redis-sentinel-password-file", o.SentinelPasswordFile)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(o.Timeout, defaultTimeout)
	return &redis.UniversalOptions{
		Addrs:         o.Target.Addresses,
		MasterName:    o.Target.Primary,
		IsClusterMode: o.Target.Kind == Cluster,
		DB:            o.Target.DB,
		Protocol:      2, // nothing is pushed but messages, and one reply has one form whatever the version
		CredentialsProviderContext: func(context.Context) (string, string, error) {
			secret, err := password("redis-password-file", o.PasswordFile)
			return o.User, secret, err
		},
		SentinelUsername:         o.SentinelUser,
		SentinelPassword:         sentinel,
		Dialer:                   o.dial,
		DialTimeout:              cmp.Or(o.Dial, defaultDial),
		DialerRetries:            1,
		ReadTimeout:              timeout,
		WriteTimeout:             timeout,
		PoolTimeout:              timeout,
		ContextTimeoutEnabled:    true,
		PoolSize:                 refusals,
		MaxActiveConns:           cmp.Or(o.Connections, defaultConnections),
		ConnMaxIdleTime:          idle,
		MaxRetries:               -1,       // a command whose answer was lost may have been carried out
		MinRetryBackoff:          redirect, // a pipeline waits so long when one of its commands is redirected
		MaxRetryBackoff:          4 * redirect,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}, nil
}

// dial connects, and encrypts where the URL says so. What Sentinel or a cluster names goes this way too.
func (o *Options) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Dial, defaultDial))
	defer cancel()
	conn, err := (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
	switch {
	case err != nil:
		return nil, err
	case o.Target.TLS:
		return o.handshake(ctx, conn, address)
	case o.PlainText:
		return conn, nil
	}
	if !near(conn) {
		return nil, errors.Join(plainText(address, o.Target.encrypted()), conn.Close())
	}
	return conn, nil
}

// shakes is how the error of a handshake begins.
const shakes = "TLS handshake: "

func (o *Options) handshake(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	config, err := o.tls(host)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	encrypted := tls.Client(conn, config)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf(shakes+"%w", err)
	}
	return encrypted, nil
}

// near reports whether nothing of conn leaves the machine. Both ends may have one address that is
// not loopback: a cluster names its nodes by their addresses, on one machine too.
func near(conn net.Conn) bool {
	there, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || there.IP.IsLoopback() {
		return true // or a Unix socket
	}
	here, ok := conn.LocalAddr().(*net.TCPAddr)
	return ok && here.IP.Equal(there.IP)
}

func (o *Options) tls(host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("redis-ca: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis-ca: %s holds no PEM certificate; want those that Redis' must chain to", o.CAFile)
		}
	}
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("redis-cert, redis-key: %w; want PEM, the certificate chain in %s and its key in %s", err, o.CertFile, o.KeyFile)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// password is what a file holds, without the end of the line; "" without a file.
func password(setting, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator names it
	if err != nil {
		return "", fmt.Errorf("%s: %w; name a file that this user can read", setting, err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" || strings.ContainsAny(secret, "\r\n") {
		return "", fmt.Errorf("%s: %s must hold one line, the password", setting, path)
	}
	return secret, nil
}
