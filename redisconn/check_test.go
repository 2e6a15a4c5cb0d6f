package redisconn

import (
	"crypto/x509"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/voicecore-ai/sluice/await"
	"github.com/voicecore-ai/sluice/loopback"
	"github.com/voicecore-ai/sluice/redistest"
	"github.com/voicecore-ai/sluice/testca"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func at(t *testing.T, url string, o Options) Options {
	t.Helper()
	target, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	o.Target = target
	if o.Timeout == 0 {
		o.Timeout, o.Dial = time.Minute, time.Minute // the machine may be busy
	}
	return o
}

// holds wants no problem, and a client that writes.
func holds(t *testing.T, o Options) {
	t.Helper()
	if problems := Check(t.Context(), o); len(problems) > 0 {
		t.Errorf("%v: %v", o.Target, problems)
	}
	client, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	if err := client.Set(t.Context(), "sluice:x", 1, 0).Err(); err != nil {
		t.Errorf("%v: %v", o.Target, err)
	}
}

// fails wants one problem with this code and these words.
func fails(t *testing.T, o Options, code string, words ...string) {
	t.Helper()
	problems := Check(t.Context(), o)
	if len(problems) != 1 || problems[0].Code != code || problems[0].Warning || problems[0].Fix == "" {
		t.Fatalf("%v: %v, want one of %s", o.Target, problems, code)
	}
	for _, word := range words {
		if !strings.Contains(problems[0].Error(), word) {
			t.Errorf("%v: no word of %q in: %v", o.Target, word, problems[0])
		}
	}
	if Refusal(problems) == nil {
		t.Errorf("%v is no reason to refuse", problems)
	}
}

// silent is an address at which connections are taken and nothing is said.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestStandalone(t *testing.T) {
	s := redistest.Start(t, "--unixsocket", filepath.Join(t.TempDir(), "s"), "--unixsocketperm", "700")
	t.Run("what is there is used", func(t *testing.T) { holds(t, at(t, "redis://"+s.Addr, Options{})) })
	t.Run("where nobody listens", func(t *testing.T) {
		gone := redistest.Start(t)
		gone.Kill()
		fails(t, at(t, "redis://"+gone.Addr, Options{}), CodeReached, "nobody listens there", "start Redis")
		fails(t, at(t, "unix:///nowhere/redis.sock", Options{}), CodeReached, "nobody listens there")
	})
	t.Run("where nobody answers", func(t *testing.T) {
		fails(t, at(t, "redis://"+silent(t), Options{Timeout: 50 * time.Millisecond}), CodeReached, "nothing came back in time", "firewall")
	})
	t.Run("a name that is none", func(t *testing.T) {
		fails(t, at(t, "redis://no-such-host.invalid", Options{PlainText: true}), CodeReached, "there is no such name")
	})
	t.Run("a replica takes no writes", func(t *testing.T) {
		replica := redistest.Start(t, "--replicaof", strings.Replace(s.Addr, ":", " ", 1))
		fails(t, at(t, "redis://"+replica.Addr, Options{}), CodeServing, "this is a replica", "name its primary")
	})
	t.Run("TLS to a port of plain text", func(t *testing.T) {
		fails(t, at(t, "rediss://"+s.Addr, Options{Timeout: 2 * time.Second}), CodeTLS, "and what answers speaks plain text") // that Redis says nothing takes all of it
	})
}

func TestTheKindInTheURLIsTheKindThatAnswers(t *testing.T) {
	alone, cluster := redistest.Start(t), redistest.Cluster(t)
	var all []string
	for _, node := range cluster {
		all = append(all, node.Addr)
	}
	nodes := strings.Join(all, ",")
	sentinel := startSentinel(t, alone.Addr)
	t.Run("each of its own", func(t *testing.T) {
		holds(t, at(t, "redis+cluster://"+cluster[0].Addr, Options{}))
		holds(t, at(t, "redis+cluster://"+nodes, Options{}))
		holds(t, at(t, "redis+sentinel://"+sentinel+"/mymaster", Options{}))
	})
	t.Run("a cluster given as one that stands alone", func(t *testing.T) {
		fails(t, at(t, "redis://"+cluster[1].Addr, Options{}), CodeTopology,
			"this is a node of a Redis Cluster, and the URL says a Redis that stands alone", "write redis+cluster://"+cluster[1].Addr)
	})
	t.Run("one that stands alone given as a cluster, or as a Sentinel", func(t *testing.T) {
		fails(t, at(t, "redis+cluster://"+alone.Addr, Options{}), CodeTopology, "this is a Redis that stands alone", "write redis://"+alone.Addr)
		fails(t, at(t, "redis+sentinel://"+alone.Addr+"/mymaster", Options{}), CodeTopology, "and the URL says a Sentinel", "write redis://")
	})
	t.Run("a Sentinel given as a Redis, and a primary that it does not know", func(t *testing.T) {
		fails(t, at(t, "redis://"+sentinel, Options{}), CodeTopology, "this is a Sentinel", "write redis+sentinel://"+sentinel+"/NAME")
		fails(t, at(t, "redis+sentinel://"+sentinel+"/other", Options{}), CodeTopology, `knows no primary "other"`, "it knows mymaster")
	})
	t.Run("a cluster without one of its primaries does not serve every key", func(t *testing.T) {
		for _, node := range cluster { // not before: a node that is busy would be taken for gone
			c := redis.NewClient(&redis.Options{Addr: node.Addr})
			if err := errors.Join(c.ConfigSet(t.Context(), "cluster-node-timeout", "1000").Err(), c.Close()); err != nil {
				t.Fatal(err)
			}
		}
		cluster[2].Kill()
		o := at(t, "redis+cluster://"+nodes, Options{})
		var problems []*Problem
		await.That(t, "each of the others says that it is gone", func() bool { problems = Check(t.Context(), o); return len(problems) == 3 })
		if Refusal(problems) == nil || problems[0].Code != CodeServing || !strings.Contains(problems[0].Error(), "the cluster does not serve every key (CLUSTER INFO: state fail") {
			t.Errorf("%v", problems)
		}
		if last := problems[len(problems)-1]; last.Code != CodeReached || !last.Warning {
			t.Errorf("an address of several that is gone: %v, want a warning", last)
		}
	})
	t.Run("a Sentinel whose primary is gone", func(t *testing.T) {
		alone.Kill()
		fails(t, at(t, "redis+sentinel://"+sentinel+"/mymaster", Options{}), CodeReached, alone.Addr, "the Sentinel at "+sentinel+" says that the primary is there")
	})
}

func startSentinel(t *testing.T, primary string) string {
	t.Helper()
	ports, err := loopback.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	address := net.JoinHostPort("127.0.0.1", ports[0])
	config := write(t, "sentinel.conf", "port "+ports[0]+"\nbind 127.0.0.1\nsentinel monitor mymaster "+strings.Replace(primary, ":", " ", 1)+" 1\nsentinel down-after-milliseconds mymaster 60000\n")
	cmd := exec.Command("redis-server", config, "--sentinel")
	cmd.Dir = filepath.Dir(config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	c := redis.NewClient(&redis.Options{Addr: address})
	defer func() { _ = c.Close() }()
	await.That(t, "the Sentinel answers", func() bool { return c.Ping(t.Context()).Err() == nil })
	return address
}

func TestUsers(t *testing.T) {
	s := redistest.Start(t, strings.Fields("--user default off --user root on >toor ~* +@all --user sluice on >hunter2 ~sluice:* &sluice:* -@all +set +ping")...)
	good, bad := write(t, "good", "hunter2\n"), write(t, "bad", "hunter3")
	url := "redis://" + s.Addr
	t.Run("one that proves himself", func(t *testing.T) { holds(t, at(t, url, Options{User: "sluice", PasswordFile: good})) })
	t.Run("a wrong password, or a user that is none", func(t *testing.T) {
		fails(t, at(t, url, Options{User: "sluice", PasswordFile: bad}), CodeUser, "refuses the password of user sluice", "redis-password-file")
		fails(t, at(t, url, Options{User: "nobody", PasswordFile: good}), CodeUser, "refuses the password of user nobody")
	})
	t.Run("no password", func(t *testing.T) {
		fails(t, at(t, url, Options{}), CodeUser, "Redis wants a password", "redis-password-file")
	})
	t.Run("a password where Redis has none", func(t *testing.T) {
		fails(t, at(t, "redis://"+redistest.Start(t).Addr, Options{User: "sluice", PasswordFile: good}), CodeUser, "refuses the password")
	})
	t.Run("a renewed password is read for the next connection", func(t *testing.T) {
		file := write(t, "password", "hunter2")
		client, err := New(at(t, url, Options{User: "sluice", PasswordFile: file}))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("hunter3"), 0o600); err != nil {
			t.Fatal(err)
		}
		root := redis.NewClient(&redis.Options{Addr: s.Addr, Username: "root", Password: "toor"})
		defer func() { _ = root.Close() }()
		for _, command := range [][]any{{"ACL", "SETUSER", "sluice", "resetpass", ">hunter3"}, {"CLIENT", "KILL", "USER", "sluice"}} {
			if err := root.Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		_ = client.Ping(t.Context()) // the old connection's end
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Error(err)
		}
	})
}

// issue is the files of a certificate for an address.
func issue(t *testing.T, ca *testca.Authority, ip string) (cert, key string) {
	t.Helper()
	l := ca.Issue(t, &x509.Certificate{IPAddresses: []net.IP{net.ParseIP(ip)}})
	return l.CertFile, l.KeyFile
}

func TestTLS(t *testing.T) {
	ours, theirs := testca.New(t), testca.New(t)
	cert, key := issue(t, ours, "127.0.0.1")
	files := []string{"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ours.File}
	open := redistest.Start(t, append(files, "--tls-auth-clients", "no")...)
	closed := redistest.Start(t, files...)
	client, clientKey := issue(t, ours, "127.0.0.2")
	t.Run("Redis proves who it is, and we too where it asks", func(t *testing.T) {
		holds(t, at(t, "rediss://"+open.Addr, Options{CAFile: ours.File}))
		holds(t, at(t, "rediss://"+closed.Addr, Options{CAFile: ours.File, CertFile: client, KeyFile: clientKey}))
	})
	t.Run("another CA", func(t *testing.T) {
		fails(t, at(t, "rediss://"+open.Addr, Options{CAFile: theirs.File}), CodeTLS, "does not prove that it is the one meant", "redis-ca")
	})
	t.Run("the system's CAs do not know ours", func(t *testing.T) {
		fails(t, at(t, "rediss://"+open.Addr, Options{}), CodeTLS, "does not prove that it is the one meant")
	})
	t.Run("no client certificate where one is wanted, or one of a stranger", func(t *testing.T) {
		stranger, strangerKey := issue(t, theirs, "127.0.0.1")
		fails(t, at(t, "rediss://"+closed.Addr, Options{CAFile: ours.File}), CodeTLS, "redis-cert")
		fails(t, at(t, "rediss://"+closed.Addr, Options{CAFile: ours.File, CertFile: stranger, KeyFile: strangerKey}), CodeTLS, "redis-cert")
	})
	t.Run("a certificate for another address", func(t *testing.T) {
		cert, key := issue(t, ours, "127.0.0.9")
		s := redistest.Start(t, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ours.File, "--tls-auth-clients", "no")
		fails(t, at(t, "rediss://"+s.Addr, Options{CAFile: ours.File}), CodeTLS, "a name that is in it")
	})
	t.Run("plain text to a port of TLS", func(t *testing.T) {
		fails(t, at(t, "redis://"+open.Addr, Options{}), CodeTLS, "the connection was closed at once", "write rediss://")
	})
}

// What Sentinel or a cluster names is dialled as well, and never told anything from another machine in plain text.
func TestOnlyThisMachineIsNear(t *testing.T) {
	for ends, want := range map[pair]bool{
		{"127.0.0.1", "127.0.0.1"}: true, {"127.0.0.1", "127.0.0.9"}: true, {"::1", "::1"}: true, {"10.0.0.1", "10.0.0.1"}: true,
		{"10.0.0.1", "10.0.0.2"}: false, {"fd00::1", "fd00::2"}: false, {"10.0.0.1", "8.8.8.8"}: false,
	} {
		if near(ends) != want {
			t.Errorf("%v: %t", ends, !want)
		}
	}
}

type pair [2]string

func (pair) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (pair) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (pair) Close() error                     { return nil }
func (p pair) LocalAddr() net.Addr            { return &net.TCPAddr{IP: net.ParseIP(p[0])} }
func (p pair) RemoteAddr() net.Addr           { return &net.TCPAddr{IP: net.ParseIP(p[1])} }
func (pair) SetDeadline(time.Time) error      { return nil }
func (pair) SetReadDeadline(time.Time) error  { return nil }
func (pair) SetWriteDeadline(time.Time) error { return nil }
