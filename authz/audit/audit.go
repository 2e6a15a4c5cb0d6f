// Package audit keeps the record of decisions and of acts: append-only segment files of
// JSON lines, chained by SHA-256, with checkpoints signed by Ed25519 (Log), an offline
// verifier that names the first bad record (Verify), and a reader (Search).
//
// It proves that what is recorded was not changed, cut or reordered by anybody without
// the key. It can't prove that what its holder records is true, and it is no metrics,
// no access log and no place for secrets: what looks like a credential is replaced
// by a keyed digest before it is written, queries are never written.
//
// A best-effort record costs its caller about a microsecond and allocates nothing. A required
// one returns when it is on disk: one fsync, shared by all who wait.
package audit

import (
	"errors"
	"log/slog"
	"time"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/tenant"
)

// Kind says what an entry is about.
type Kind uint8

// The kinds. The log itself writes more: segment, resume, checkpoint, key, removed, clock, gap and summary.
const (
	KindDecision  Kind = iota // a request was decided
	KindAdmin                 // somebody changed or read what Sluice keeps
	KindStreamEnd             // an admitted stream was ended before its time
	kindGap                   // records are missing here
	kindSummary               // unauthenticated requests, counted
	kindCount
)

var kindNames = [kindCount]string{"decision", "admin", "stream_end", "gap", "summary"}

// Entry is one decision or one act. Empty fields are not written. Strings are cut
// at 1 KiB, roles at 16 of 256 bytes. The log keeps nothing of it after Record.
type Entry struct {
	Time  int64 // Unix µs
	Kind  Kind
	Class authz.Class
	// Anonymous says that whoever it is about has proved nothing. Such entries have a
	// budget of their own, so that a flood of them can't fill the disk; Class is not read.
	Anonymous bool
	Decision  [16]byte // the decision's id
	Trace     [16]byte // the trace's id (W3C)

	Tenant    tenant.ID
	Plan      string
	Principal string
	Scheme    authz.Scheme // Nobody is not written
	Roles     []string     // shared: never changed
	Peer      string       // the door's peer
	Source    string       // the client's address, with or without port; cut to /24 or /48

	Service, Method, Host string
	Path                  string // what follows '?' or '#' is not written
	GRPC                  bool

	Allowed    bool
	Reason     string
	Detail     string
	Rule       string
	Failed     bool   // Rule's condition could not be evaluated
	ShadowRule string // the rule in shadow that would change the verdict; "" if none
	Shadow     bool   // what the verdict would be then; written only with ShadowRule or ShadowReason
	// ShadowReason is why an admitted request would have been refused, had the server not been in the soft stage. Such
	// entries are bounded like refusals.
	ShadowReason string
	Revision     uint64

	Actor, Act, Resource string // of an administrator's act

	count uint64 // of a gap or a summary
}

// Errors of Record. Both mean that the record may be missing.
var (
	ErrUnavailable = errors.New("the audit log can't be written right now")
	ErrClosed      = errors.New("the audit log is closed")
)

// ErrLocked means that another process has the folder open.
var ErrLocked = errors.New("another process writes this audit log: one folder has one writer")

// Options are what a log is made of. Dir, Origin, Seed and Mask are required;
// zero elsewhere means the default.
type Options struct {
	Dir    string   // made if it is missing, 0700
	Origin string   // names this log in its checkpoints: not empty, no spaces, no '+'; never changed
	Seed   [32]byte // of the Ed25519 key that signs checkpoints
	// Previous is the seed that signed before Seed, for the one start in which the key
	// changes: it signs the record that names the new key.
	Previous [32]byte
	Mask     [32]byte // keys the digests that stand for credentials

	WholeSource bool // record client addresses whole

	CheckpointRecords int           // a checkpoint after so many records; default 1000
	CheckpointEvery   time.Duration // and so long after a record; default 1 s
	SegmentBytes      int64         // a new file after so much, by at most one batch more; default 64 MiB
	SegmentAge        time.Duration // and after so long; default 24 h
	Retention         Retention

	QueueBytes int           // of records that wait; best-effort ones beyond it are dropped and counted; default 4 MiB
	Wait       time.Duration // the most that Record waits for the disk; default 500 ms

	SourceRate  int // unauthenticated records a second and source; default 10
	SourceBurst int // at once; default 20
	Sources     int // told apart; the rest share one; default 4096
	SourceBytes int // written a second for all unauthenticated records; default 64 KiB
	// The same for refusals of callers who proved who they are, by tenant; those that a
	// rule asks a record of (Class Required) are not bounded.
	TenantRate  int // default 50
	TenantBurst int // default 200
	TenantBytes int // for all tenants; default 256 KiB

	// Copy is given each batch of whole lines after it was written, such as
	// telemetry's OTLP sink. It must not block and must not keep the slice.
	Copy func(lines []byte)
	Now  func() int64 // Unix µs; default the clock
	Log  *slog.Logger // default: nothing
}

// Retention says when the oldest segments are deleted: when any of Files, Bytes
// and Age is exceeded. Zero is no bound; the segment that is written to stays.
type Retention struct {
	Files int
	Bytes int64
	Age   time.Duration // of a segment's newest record
	// Keep is a promise: nothing younger is deleted, whatever the others say. A disk that is
	// full for it refuses required records rather than forget.
	Keep time.Duration
}

// Stats counts since Open.
type Stats struct {
	Records    uint64 // written, of every kind
	Bytes      uint64 // written
	Dropped    uint64 // entries that are missing: queue full, or lost with a failed write
	Suppressed uint64 // refusals that are counted only
	Late       uint64 // required records whose caller had given up
	Fsyncs     uint64
	Errors     uint64 // failed writes
	Failing    bool   // the last write failed
	Damaged    string // how the log was changed from outside; "" if it was not
}

func (o *Options) setDefaults() {
	set(&o.CheckpointRecords, 1000)
	set(&o.CheckpointEvery, time.Second)
	set(&o.SegmentBytes, 64<<20)
	set(&o.SegmentAge, 24*time.Hour)
	set(&o.QueueBytes, 4<<20)
	set(&o.Wait, 500*time.Millisecond)
	set(&o.SourceRate, 10)
	set(&o.SourceBurst, 20)
	set(&o.Sources, 4096)
	set(&o.SourceBytes, 64<<10)
	set(&o.TenantRate, 50)
	set(&o.TenantBurst, 200)
	set(&o.TenantBytes, 256<<10)
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().UnixMicro() }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func set[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}
