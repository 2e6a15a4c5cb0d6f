package app

import (
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/pflag"

	"github.com/voicecore-ai/sluice/ratelimit"
	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
	"github.com/voicecore-ai/sluice/redisconn"
)

// RedisConfig is what sluiced can be told of the Redis that replicas share. Without a URL there is none.
type RedisConfig struct {
	URL                  string        `koanf:"redis-url"`
	User                 string        `koanf:"redis-user"`
	PasswordFile         string        `koanf:"redis-password-file"`
	SentinelUser         string        `koanf:"redis-sentinel-user"`
	SentinelPasswordFile string        `koanf:"redis-sentinel-password-file"`
	CA                   string        `koanf:"redis-ca"`
	Cert                 string        `koanf:"redis-cert"`
	Key                  string        `koanf:"redis-key"`
	PlainText            bool          `koanf:"redis-plaintext"`
	Prefix               string        `koanf:"redis-prefix"`
	Timeout              time.Duration `koanf:"redis-timeout"`
	OnOutage             string        `koanf:"redis-on-outage"`
	Failover             time.Duration `koanf:"redis-failover"`
	Connections          int           `koanf:"redis-connections"`
}

// The defaults of what is worth changing.
const (
	redisPrefix      = "sluice:"
	redisTimeout     = 100 * time.Millisecond
	redisFailover    = 35 * time.Second // a Sentinel waits for 30 s before it begins one, a cluster for 15, unless they are told otherwise
	redisConnections = 64
	leastConnections = 32 // six ranges of slots on a primary have up to four pipelines each; one more than there are gets no connection
)

func redisFlags(f *pflag.FlagSet) {
	f.String("redis-url", "", "`url` of the Redis on which replicas share counters, such as redis://127.0.0.1:6379, rediss+sentinel://HOST:26379/NAME or rediss+cluster://HOST:6379 (rediss is TLS); \"\" for none, and then one sluiced alone")
	f.String("redis-user", "", "`name` of Redis' user; \"\" for its default user")
	f.String("redis-password-file", "", "`file` with the password of --redis-user, read for each new connection; \"\" for none")
	f.String("redis-sentinel-user", "", "`name` of the Sentinels' user; \"\" for their default user")
	f.String("redis-sentinel-password-file", "", "`file` with the Sentinels' password, read at the start; \"\" for none")
	f.String("redis-ca", "", "PEM `file` with the certificates that Redis' must chain to; \"\" for the system's")
	f.String("redis-cert", "", "PEM `file` with the certificate that Redis asks for; \"\" for none")
	f.String("redis-key", "", "PEM `file` with the private key for --redis-cert")
	f.Bool("redis-plaintext", false, "let plain text go to a Redis on another machine, where something else encrypts the way; who can write to it decides who is admitted")
	f.String("redis-prefix", redisPrefix, "`text` with which names in Redis begin; sluiceds with the same one share everything")
	f.Duration("redis-timeout", redisTimeout, "`time` within which Redis has to answer before a limit means what its on_outage says; keep it below Envoy's timeout for the call")
	f.String("redis-on-outage", "", "`word` deny, allow or local: the on_outage of limits and descriptors that have none of their own; \"\" for deny where they are durable and local where not")
	f.Duration("redis-failover", redisFailover, "`time` that a failover of Redis may take: what was acknowledged before it is counted again within that; Redis keeps an id of each request for so long and 15 s more. The same for all replicas")
	f.Int("redis-connections", redisConnections, "most connections to each node of Redis, as a `number`")
}

// answerTimeout is for what is asked outside of requests, one answer at a time.
const answerTimeout = time.Second

// longestRedisTimeout is more than any Envoy waits.
const longestRedisTimeout = 10 * time.Second

// A failover loses what was acknowledged in the seconds before it, and to count that again takes some more; Redis knows operations for ten minutes at most.
const (
	besideFailover  = 15 * time.Second
	longestFailover = 9 * time.Minute
)

// check opens no file and dials nobody.
func (c RedisConfig) check(wrong func(string, ...any)) {
	if c.URL == "" {
		if set := c.beside(); len(set) > 0 {
			wrong("redis-url: empty, so %s would do nothing; set it, or leave them out", strings.Join(set, ", "))
		}
		return
	}
	if c.Timeout < time.Millisecond || c.Timeout > longestRedisTimeout {
		wrong("redis-timeout %v: from 1ms to %v", c.Timeout, longestRedisTimeout)
	}
	if !new(ratelimit.Outage).Say(c.OnOutage, false) {
		wrong("redis-on-outage %q: one of deny, allow, local; \"\" for deny where a limit is durable and local where not", c.OnOutage)
	}
	if c.Failover < 0 || c.Failover > longestFailover {
		wrong("redis-failover %v: from 0s to %v", c.Failover, longestFailover)
	}
	if c.Connections < leastConnections {
		wrong("redis-connections %d: at least %d; a request that finds none counts as unanswered", c.Connections, leastConnections)
	}
	if c.Prefix == "" || strings.ContainsAny(c.Prefix, "{} \t\r\n*?[]\\") {
		wrong("redis-prefix %q: one word without braces, blanks and signs of a pattern, like sluice:", c.Prefix)
	}
	o, err := c.options()
	if err != nil {
		wrong("%w", err)
		return
	}
	if err := o.Validate(); err != nil {
		wrong("%w", err)
	}
}

// beside are the settings that were given without a URL.
func (c RedisConfig) beside() (set []string) {
	for _, s := range []struct {
		name  string
		given bool
	}{
		{"redis-user", c.User != ""}, {"redis-password-file", c.PasswordFile != ""}, {"redis-sentinel-user", c.SentinelUser != ""},
		{"redis-sentinel-password-file", c.SentinelPasswordFile != ""}, {"redis-ca", c.CA != ""}, {"redis-cert", c.Cert != ""}, {"redis-key", c.Key != ""},
		{"redis-plaintext", c.PlainText}, {"redis-prefix", c.Prefix != redisPrefix}, {"redis-timeout", c.Timeout != redisTimeout},
		{"redis-on-outage", c.OnOutage != ""}, {"redis-failover", c.Failover != redisFailover}, {"redis-connections", c.Connections != redisConnections},
	} {
		if s.given {
			set = append(set, s.name)
		}
	}
	return set
}

func (c RedisConfig) options() (redisconn.Options, error) {
	target, err := redisconn.Parse(c.URL)
	return redisconn.Options{
		Target: target, User: c.User, PasswordFile: c.PasswordFile, SentinelUser: c.SentinelUser, SentinelPasswordFile: c.SentinelPasswordFile,
		CAFile: c.CA, CertFile: c.Cert, KeyFile: c.Key, PlainText: c.PlainText, Connections: c.Connections,
		Timeout: max(c.Timeout, answerTimeout), // or what a request may take longer would be cut off
	}, err
}

// onOutage is that of limits without a word of their own; nil for what each has.
func (c RedisConfig) onOutage() *ratelimit.Outage {
	if c.OnOutage == "" {
		return nil
	}
	o := new(ratelimit.Outage)
	o.Say(c.OnOutage, false) // check has looked
	return o
}

// store is where counters are. Their keys are short because there are many; under a prefix of one's own they begin with that.
func (c RedisConfig) store(client redis.UniversalClient) redisstore.Options {
	o := redisstore.Options{Client: client, Prefix: c.Prefix, Timeout: c.Timeout, Remember: c.Failover + besideFailover}
	if c.Prefix != redisPrefix {
		o.Counters = c.Prefix + "q:"
	}
	return o
}

// errNoRedis is that of a command that is about Redis alone.
var errNoRedis = errors.New("redis-url: empty; name the Redis that the replicas share, like redis://127.0.0.1:6379")
