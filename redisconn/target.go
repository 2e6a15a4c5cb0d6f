package redisconn

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// Kind is how several Redis processes stand to each other.
type Kind uint8

// The kinds.
const (
	Standalone Kind = iota // one process, or what a proxy or a DNS name makes look like one
	Sentinel               // one primary, of which Sentinels know where it is
	Cluster                // a Redis Cluster
)

// Target is what a URL names.
type Target struct {
	Kind      Kind
	TLS       bool
	Addresses []string // host:port, or the path of a Unix socket; of Sentinels, or of some nodes of a cluster
	Primary   string   // the name under which Sentinels know it
	DB        int      // standalone only
}

const (
	redisPort    = "6379"
	sentinelPort = "26379"
)

// forms is what a URL may look like.
const forms = "want redis://HOST:PORT, redis+sentinel://HOST:PORT,HOST:PORT/NAME, redis+cluster://HOST:PORT,HOST:PORT, the same with rediss for TLS, or unix:///PATH"

// Parse reads a URL. A problem never repeats the URL: somebody may have put a password into it.
func Parse(url string) (Target, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case !ok:
		return Target{}, fmt.Errorf("redis-url: no scheme; %s", forms)
	case strings.Contains(rest, "@"):
		return Target{}, errors.New("redis-url: a user or a password is in it, for all to see in the list of processes; " +
			"say redis-user, and the password in the file that redis-password-file names")
	case strings.ContainsAny(rest, "?#"):
		return Target{}, fmt.Errorf("redis-url: it has options after ? or #, which mean nothing here; leave them out; %s", forms)
	case scheme == "unix":
		if !filepath.IsAbs(rest) {
			return Target{}, fmt.Errorf("redis-url: unix:// is followed by a path that begins with /, as in unix:///run/redis/redis.sock")
		}
		return Target{Addresses: []string{rest}}, nil
	}
	t := Target{TLS: strings.HasPrefix(scheme, "rediss")}
	port := redisPort
	switch strings.TrimPrefix(strings.TrimPrefix(scheme, "rediss"), "redis") {
	case "":
	case "+sentinel":
		t.Kind, port = Sentinel, sentinelPort
	case "+cluster":
		t.Kind = Cluster
	default:
		return Target{}, fmt.Errorf("redis-url: scheme %q; %s", scheme, forms)
	}
	hosts, path, _ := strings.Cut(rest, "/")
	var err error
	if t.Addresses, err = addresses(hosts, port); err != nil {
		return Target{}, err
	}
	if t.Kind == Standalone && len(t.Addresses) > 1 {
		return Target{}, errors.New("redis-url: redis:// takes one address; for a Redis Cluster write redis+cluster://, for Sentinels redis+sentinel:// and the primary's name after a slash")
	}
	return t, t.path(path)
}

// path reads what comes after the addresses: a database, or the name of the primary.
func (t *Target) path(path string) error {
	switch {
	case t.Kind == Sentinel && path == "":
		return errors.New("redis-url: the name under which the Sentinels know the primary is missing; write it after a slash, as in redis+sentinel://HOST:26379/mymaster")
	case t.Kind == Sentinel:
		t.Primary = path
	case t.Kind == Cluster && path != "" && path != "0":
		return errors.New("redis-url: a Redis Cluster has database 0 alone; leave out what comes after the slash")
	case path != "":
		db, err := strconv.ParseUint(path, 10, 15)
		if err != nil {
			return errors.New("redis-url: after the slash comes the number of a database, as in redis://HOST:6379/1")
		}
		t.DB = int(db)
	}
	return nil
}

func addresses(hosts, port string) (all []string, err error) {
	for address := range strings.SplitSeq(hosts, ",") {
		host, p, split := net.SplitHostPort(address)
		if split != nil {
			host, p = strings.Trim(address, "[]"), port
			if strings.Contains(host, ":") && net.ParseIP(host) == nil {
				host = ""
			}
		}
		if n, bad := strconv.ParseUint(p, 10, 16); host == "" || strings.ContainsAny(host, " \t") || bad != nil || n == 0 {
			return nil, fmt.Errorf("redis-url: %q is no HOST:PORT; write addresses with commas between and no blanks, IPv6 ones in brackets", address)
		}
		all = append(all, net.JoinHostPort(host, p))
	}
	return all, nil
}

// scheme is how the URL of t begins.
func (t Target) scheme(tls bool) string {
	s := "redis"
	if tls {
		s = "rediss"
	}
	switch t.Kind {
	case Sentinel:
		s += "+sentinel"
	case Cluster:
		s += "+cluster"
	case Standalone:
		if len(t.Addresses) > 0 && filepath.IsAbs(t.Addresses[0]) {
			return "unix://"
		}
	}
	return s + "://"
}

func (t Target) encrypted() string { return t.scheme(true) }

// String is the URL, which holds no secret.
func (t Target) String() string {
	s := t.scheme(t.TLS) + strings.Join(t.Addresses, ",")
	switch {
	case t.Primary != "":
		s += "/" + t.Primary
	case t.DB != 0:
		s += "/" + strconv.Itoa(t.DB)
	}
	return s
}

// remote is the first address that is on another machine, as far as its name says; "" for none.
func (t Target) remote() string {
	for _, address := range t.Addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil || host == "localhost" {
			continue
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return address
		}
	}
	return ""
}
