// Package ratelimit is the arithmetic of limits: what a limit is, how many
// hits it admits, and the contract of the store that keeps the counters.
//
// Every algorithm is a pure step over a [State] with time as an argument, in
// a file of its own. The package knows no tenant, no protocol and no clock.
// One step costs a few nanoseconds and allocates nothing.
package ratelimit

import (
	"slices"
	"time"
)

// Algorithm says what bound a limit keeps.
type Algorithm uint8

// The algorithms. The zero value is not one of them.
const (
	// GCRA admits at most burst + rate·τ in every interval τ.
	GCRA Algorithm = iota + 1
	// Hard admits at most the limit in every trailing window, and at any moment
	// less than a 120th below that. A limit above 2^32-1 counts as that.
	Hard
	// Fixed admits at most the limit per window aligned at unix % window, so up
	// to twice the limit in a trailing window.
	Fixed
)

// Unlimited, as Limit.Hits, admits everything.
const Unlimited = int64(-1)

// Bounds of what a limit may say, so that no step can overflow.
const (
	MaxHits   = int64(1) << 32       // hits per window, and burst
	MaxWindow = 366 * 24 * time.Hour // longest window
	MinWindow = time.Second          // shortest window
)

// Limit is one compiled limit. It is immutable.
type Limit struct {
	Name      string // as the catalogue names it; shown to callers
	Algorithm Algorithm
	Hits      int64         // admitted per Window; 0 denies all; Unlimited
	Window    time.Duration // whole microseconds, MinWindow to MaxWindow
	Burst     int64         // GCRA only: hits admitted at once, at least 1
	Shadow    bool          // evaluate and count up to the limit, never refuse
	Durable   bool          // survives a crash: spent only after the journal has it
	OnOutage  Outage        // what a shared store that does not answer means
	// OutageSaid says that OnOutage is whoever set the limit's own word, and no default.
	OutageSaid bool
}

// Outage is what holds for a limit while the shared store does not answer. The
// zero value refuses.
type Outage uint8

// What holds during an outage. A store of one process has none.
const (
	OutageDeny  Outage = iota // nothing is admitted
	OutageAllow               // everything is admitted, and marked
	OutageLocal               // each replica admits its share of the limit, and marks it
)

var outageNames = [...]string{"deny", "allow", "local"}

// String is the word for o in catalogues, metrics and logs.
func (o Outage) String() string {
	if int(o) < len(outageNames) {
		return outageNames[o]
	}
	return outageNames[OutageDeny]
}

// Say makes o what the word says. No word is the default: deny for a durable limit, which is what
// somebody paid for, and local for any other. So nothing is admitted without a bound that nobody asked for.
// It is false, and o is OutageDeny, for a word that is none.
func (o *Outage) Say(word string, durable bool) bool {
	at := slices.Index(outageNames[:], word)
	switch {
	case at >= 0:
		*o = Outage(at)
	case word == "" && !durable:
		*o = OutageLocal
	default:
		*o = OutageDeny
	}
	return at >= 0 || word == ""
}

// Cell names one counter: 128 keyed bits that stand for (tenant, limit) or for a
// descriptor. Cells with the same Shard are charged together or not at all
// without meeting another shard's lock. Cells whose keys share the first 8
// bytes lie side by side in memory: a tenant's few, never a crowd.
type Cell struct {
	Key   [16]byte
	Shard uint64
}

// Charge is what one request asks of one limit.
type Charge struct {
	Limit *Limit
	Cell  Cell
	Hits  int64 // 0 looks without charging; negative gives back (Fixed only)
	// Shadow charges as if Limit were Shadow, whatever it says.
	Shadow bool
}

// Shadowed reports whether c is evaluated and counted, and never refused.
func (c *Charge) Shadowed() bool { return c.Shadow || c.Limit.Shadow }

// Outcome is what one limit says to one charge. Times are microseconds.
type Outcome struct {
	Over       bool  // the limit does not cover the hits
	Remaining  int64 // hits left after this charge, or now when it was not applied; negative: nobody knows
	ResetAfter int64 // until the limit is whole again
	RetryAfter int64 // until the refused hits would fit; 0 when not Over; Never
	// Degraded says that this is what the limit's OnOutage says, and not what the shared store counted. Remaining and
	// the times are those of this replica's share for OutageLocal, and unknown else.
	Degraded bool
}

// Never, as RetryAfter, means that the hits will not ever fit.
const Never = int64(1) << 62

// Operation is one request that is charged.
type Operation struct {
	Now int64 // Unix microseconds; a store that is shared goes by its own clock
	// ID tells it from all others: a store that is shared charges it once, however often it is
	// asked within a few seconds, and says what it said first. Zero: nobody asks twice.
	ID [16]byte
	// First says that nobody has asked with ID yet; then a shared store need not look for it.
	First bool
}

// Store keeps counters.
//
// Charge applies all charges or none: if any that is not Shadowed is Over,
// nothing is charged and admitted is false. It fills outcomes[i] for charges[i]
// either way. An error means that nothing was charged and nothing is known: the
// caller decides what its policy says.
type Store interface {
	Charge(op Operation, charges []Charge, outcomes []Outcome) (admitted bool, err error)
}
