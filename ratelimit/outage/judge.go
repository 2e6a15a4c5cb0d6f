package outage

import (
	"errors"
	"io"
	"net"
	"strings"

	"github.com/voicecore-ai/sluice/ratelimit/redisstore"
)

// cause is what an error of the shared store says about it.
type cause uint8

const (
	silence  cause = iota // no answer: the breaker counts it
	disorder              // it answered, at once, that it can't count for anybody now
	theirs                // it can't do what this request asks
)

// states are the answers by which Redis says that it can't serve now, whatever is asked.
var states = []string{
	"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "OOM", "MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED",
	"NOAUTH", "WRONGPASS", "NOPERM", "MOVED", "ASK", "ERR Function not found", "ERR max number of clients",
	"ERR The user executing the script", // NOPERM, as Redis 7.0 says it of what a function does
}

// judge tells causes apart. A disorder is answered in no time, so the breaker has nothing to save there: calls go on, and are counted
// again from the first one that can be; so it is where another try had no answer. What is neither is the request's: it opens nothing and
// gets nothing, so that nobody can choose by what he sends that limits do not hold.
func judge(err error) cause {
	silent := isSilence(err)
	if !silent && !errors.Is(err, redisstore.ErrRefused) {
		return theirs
	}
	var refusal interface { // what the client calls redis.Error
		error
		RedisError()
	}
	if errors.As(err, &refusal) {
		for _, s := range states {
			if strings.HasPrefix(refusal.Error(), s) {
				return disorder
			}
		}
	}
	if silent {
		return silence
	}
	return theirs
}

// isSilence reports whether the shared store may have done what it was asked.
func isSilence(err error) bool {
	return errors.Is(err, redisstore.ErrNoAnswer)
}

// broken reports whether a connection broke, and not only time has passed: then another server may answer next.
func broken(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &op) && !op.Timeout()
}
