package redisconn

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// Problem is one thing that is wrong with the store, and what mends it.
type Problem struct {
	Code     string // stable; docs/stores.md explains it
	Warning  bool   // it works all the same
	Object   string // an address, a key or a setting
	Says     string // what is wrong
	Evidence string // what was read
	Fix      string
}

// Error is the problem in one line.
func (p *Problem) Error() string {
	s := p.Object + ": " + p.Says
	if p.Evidence != "" {
		s += " (" + p.Evidence + ")"
	}
	return s + "; " + p.Fix
}

// The codes of what Check asks.
const (
	CodeReached  = "SR101" // Redis answers at every address
	CodeTLS      = "SR102" // the connection is encrypted as the URL says, and Redis proves who it is
	CodeUser     = "SR103" // Redis knows the user, who may do what sluiced does
	CodeTopology = "SR104" // Redis is what the URL says: alone, behind Sentinels, or a cluster
	CodeServing  = "SR105" // it takes writes, for every key
)

// Check dials every address and returns what is wrong. An address of several that does not answer is a warning.
func Check(ctx context.Context, o Options) []*Problem {
	var problems, silent []*Problem
	for _, address := range o.Target.Addresses {
		answered, p := o.checkAddress(ctx, address)
		if p == nil {
			continue
		}
		problems = append(problems, p)
		if !answered {
			silent = append(silent, p)
		}
	}
	for _, p := range silent {
		p.Warning = len(silent) < len(o.Target.Addresses) && p.Code == CodeReached
	}
	return problems
}

// Refusal is the problems that are no warnings as one error; nil for none.
func Refusal(problems []*Problem) error {
	var all []error
	for _, p := range problems {
		if !p.Warning {
			all = append(all, p)
		}
	}
	return errors.Join(all...)
}

// single is a client of one process. Sentinels have users and passwords of their own.
func (o *Options) single(address string, sentinel bool) (*redis.Client, error) {
	alone := *o
	alone.Target = Target{TLS: o.Target.TLS, Addresses: []string{address}}
	if sentinel {
		alone.User, alone.PasswordFile = o.SentinelUser, o.SentinelPasswordFile
	}
	u, err := alone.universal()
	if err != nil {
		return nil, err
	}
	return redis.NewClient(u.Simple()), nil
}

func (o *Options) checkAddress(ctx context.Context, address string) (answered bool, p *Problem) {
	client, err := o.single(address, o.Target.Kind == Sentinel)
	if err != nil {
		return false, &Problem{Code: CodeUser, Object: address, Says: err.Error(), Fix: FixOf(err)}
	}
	defer client.Close() //nolint:errcheck // nothing is left to lose
	mode, role, err := hello(ctx, client)
	if err != nil {
		return false, o.explain(address, err)
	}
	if p := o.topology(address, mode, role); p != nil {
		return true, p
	}
	switch o.Target.Kind {
	case Sentinel:
		return true, o.primary(ctx, address, client)
	case Cluster:
		return true, o.whole(ctx, address, client)
	case Standalone:
	}
	return true, nil
}

// FixOf is what to do about a setting that New refuses: its error begins with the name.
func FixOf(err error) string {
	text := err.Error()
	for _, f := range []struct{ setting, fix string }{
		{"redis-password-file", "write the password of redis-user, alone on one line, into a file that this user may read, and name it"},
		{"redis-sentinel-password-file", "write the password of redis-sentinel-user, alone on one line, into a file that this user may read, and name it"},
		{"redis-ca", "name a PEM file with the certificate of the CA that signed Redis'; leave it out if the system's CAs do"},
		{"redis-cert", "name the PEM file with the client certificate, and with redis-key that with its private key; leave both out if Redis asks for none"},
	} {
		if strings.HasPrefix(text, f.setting) {
			return f.setting + ": " + f.fix
		}
	}
	return "change the setting that the message names; 'sluiced serve --help' explains each"
}

// hello asks a process what it is. Every user may.
func hello(ctx context.Context, c *redis.Client) (mode, role string, err error) {
	reply, err := c.Do(ctx, "HELLO").Slice()
	if err != nil {
		return "", "", err
	}
	said := map[string]string{}
	for i := 0; i+1 < len(reply); i += 2 {
		said[fmt.Sprint(reply[i])] = fmt.Sprint(reply[i+1])
	}
	return said["mode"], said["role"], nil
}

// topology compares what a process says that it is with what the URL says. Redis' words: standalone,
// sentinel, cluster; master, replica.
func (o *Options) topology(address, mode, role string) *Problem {
	want := map[Kind]string{Standalone: "standalone", Sentinel: "sentinel", Cluster: "cluster"}[o.Target.Kind]
	is := map[string]string{
		"standalone": "a Redis that stands alone", "sentinel": "a Sentinel", "cluster": "a node of a Redis Cluster",
	}
	p := &Problem{Code: CodeTopology, Object: address, Evidence: "HELLO: mode " + mode + ", role " + role}
	if mode != want {
		write := map[string]Target{
			"standalone": {Addresses: []string{address}}, "sentinel": {Kind: Sentinel, Addresses: []string{address}, Primary: "NAME"}, "cluster": {Kind: Cluster, Addresses: []string{address}},
		}[mode]
		write.TLS = o.Target.TLS
		p.Says = "this is " + is[mode] + ", and the URL says " + is[want]
		p.Fix = "write " + write.String()
		return p
	}
	if mode == "standalone" && role != "master" {
		p.Code, p.Says = CodeServing, "this is a replica, which takes no writes"
		p.Fix = "name its primary ('redis-cli INFO replication' says where), or its Sentinels"
		return p
	}
	return nil
}

// primary asks a Sentinel where the primary is, and the primary whether it is one.
func (o *Options) primary(ctx context.Context, address string, c *redis.Client) *Problem {
	reply, err := c.Do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", o.Target.Primary).StringSlice()
	if errors.Is(err, redis.Nil) || err == nil && len(reply) != 2 {
		return &Problem{
			Code: CodeTopology, Object: address, Says: fmt.Sprintf("this Sentinel knows no primary %q", o.Target.Primary),
			Evidence: "it knows " + primaries(ctx, c), Fix: "write one of these after the slash of redis-url",
		}
	}
	if err != nil {
		return o.explain(address, err)
	}
	at := net.JoinHostPort(reply[0], reply[1])
	data, err := o.single(at, false)
	if err != nil {
		return &Problem{Code: CodeUser, Object: at, Says: err.Error(), Fix: FixOf(err)}
	}
	defer data.Close() //nolint:errcheck // nothing is left to lose
	mode, role, err := hello(ctx, data)
	if err != nil {
		p := o.explain(at, err)
		p.Says += ", and the Sentinel at " + address + " says that the primary is there"
		return p
	}
	if mode == "standalone" && role == "master" {
		return nil
	}
	return &Problem{
		Code: CodeServing, Object: at, Says: "the Sentinel at " + address + " says that this is the primary, and it is not", Evidence: "HELLO: mode " + mode + ", role " + role,
		Fix: "wait for the failover to end; if it does not, see 'SENTINEL CKQUORUM " + o.Target.Primary + "'",
	}
}

func primaries(ctx context.Context, c *redis.Client) string {
	reply, err := c.Do(ctx, "SENTINEL", "MASTERS").Slice()
	if err != nil {
		return "others, which this user may not list"
	}
	var names []string
	for _, one := range reply {
		fields, _ := one.([]any)
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "name" {
				names = append(names, fmt.Sprint(fields[i+1]))
			}
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// whole asks a node whether the cluster serves every key.
func (o *Options) whole(ctx context.Context, address string, c *redis.Client) *Problem {
	info, err := c.ClusterInfo(ctx).Result()
	if err != nil {
		return o.explain(address, err)
	}
	seen := map[string]string{}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		seen[name] = value
	}
	if seen["cluster_state"] == "ok" {
		return nil
	}
	return &Problem{
		Code: CodeServing, Object: address, Says: "the cluster does not serve every key",
		Evidence: "CLUSTER INFO: state " + seen["cluster_state"] + ", " + seen["cluster_slots_ok"] + " of 16384 slots",
		Fix:      "bring its primaries back, or give their slots to others: 'redis-cli --cluster check " + address + "'",
	}
}

// explain makes a sentence of what go-redis and the network say.
func (o *Options) explain(address string, err error) *Problem {
	p := &Problem{Code: CodeReached, Object: address, Evidence: err.Error()}
	var wrongHost x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var dns *net.DNSError
	text := err.Error()
	settings, who := "redis-", cmp.Or(o.User, "default")
	if o.Target.Kind == Sentinel && slices.Contains(o.Target.Addresses, address) {
		settings, who = "redis-sentinel-", cmp.Or(o.SentinelUser, "default")
	}
	user := "user " + who
	closed := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	switch {
	case strings.Contains(text, "redis-plaintext"):
		p.Code, p.Says, p.Evidence, p.Fix = CodeTLS, "it was named by Sentinel or the cluster, and is not spoken to", text, "encrypt it, or say redis-plaintext"
	case errors.As(err, &wrongHost), errors.As(err, &unknown), errors.As(err, &invalid):
		p.Code, p.Says = CodeTLS, "Redis does not prove that it is the one meant"
		p.Fix = "name with redis-ca the CA that signed its certificate, and with redis-url a name that is in it"
	case errors.As(err, &record), strings.Contains(text, shakes) && errors.Is(err, context.DeadlineExceeded):
		p.Code, p.Says, p.Fix = CodeTLS, "the URL says TLS, and what answers speaks plain text", "name Redis' tls-port, or write a URL without the second s"
	case o.Target.TLS && (closed || strings.Contains(text, "remote error: tls")):
		p.Code, p.Says, p.Fix = CodeTLS, "Redis ended the connection after the TLS handshake, as it does without a client certificate of a CA that it knows", "set redis-cert and redis-key; else see Redis' log"
	case closed:
		p.Code, p.Says, p.Fix = CodeTLS, "the connection was closed at once, as a port does that wants TLS", "write "+o.Target.encrypted()+" if it is Redis' tls-port; else see Redis' log"
	case strings.Contains(text, "WRONGPASS"), strings.Contains(text, "invalid password"), strings.Contains(text, "without any password configured"):
		p.Code, p.Says, p.Fix = CodeUser, "Redis refuses the password of "+user, "compare the file that "+settings+"password-file names, and "+settings+"user, with 'ACL LIST' there"
	case strings.Contains(text, "NOAUTH"):
		p.Code, p.Says, p.Fix = CodeUser, "Redis wants a password", "name the file that holds it with "+settings+"password-file, and the user with "+settings+"user"
	case strings.Contains(text, "NOPERM"):
		p.Code, p.Says, p.Fix = CodeUser, user+" may not do what sluiced does", "give it the rights that docs/stores.md lists"
	case strings.Contains(text, "LOADING"):
		p.Says, p.Fix = "Redis is loading its data", "wait until it has"
	case errors.As(err, &dns):
		p.Says, p.Fix = "there is no such name", "see redis-url; 'getent hosts' says what this machine knows"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		p.Says, p.Fix = "nobody listens there", "start Redis, or name with redis-url where it is"
	case errors.Is(err, os.ErrPermission):
		p.Says, p.Fix = "this user may not open the socket", "put it into the group that unixsocketperm of Redis lets in"
	default:
		p.Says, p.Fix = "nothing came back in time", "see whether Redis lives, and whether a firewall or a network policy is between: 'redis-cli -h HOST -p PORT PING'"
	}
	return p
}
