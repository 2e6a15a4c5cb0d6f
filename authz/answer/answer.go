// Package answer turns a gate.Decision into what a caller sees: a status, headers,
// a body, and the same for gRPC. Every door answers through it, so that a refusal
// reads the same whichever protocol Envoy asked in.
//
// It is not a wire encoding; the doors have those. It never sees a credential, so
// it can't echo one. The fields of an admitted answer cost about 100 ns and no allocation.
package answer

import (
	"encoding/hex"
	"strconv"

	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/tenant"
)

// Header is a header of an answer. The name is lower case.
type Header struct {
	Name  string
	Value []byte
}

// Answer is what the caller gets. Its slices are valid until it is written again.
type Answer struct {
	Status  int      // HTTP status; Envoy turns it into 200 for a gRPC caller
	Code    uint32   // gRPC status code
	Headers []Header // response headers
	Body    []byte   // empty for a gRPC caller: Envoy would put it in grpc-message

	buf []byte // backs the values
}

// kind is how one reason is answered.
type kind struct {
	status int
	code   uint32
	typ    string // RFC 9457 problem type
	title  string
	reason string // google.rpc.ErrorInfo
}

// The gRPC status codes, of which only numbers travel.
const (
	invalidArgument   = 3
	permissionDenied  = 7
	resourceExhausted = 8
	unavailable       = 14
	unauthenticated   = 16
)

// noType is RFC 9457's "no more than the status says".
const noType = "about:blank"

// quotaExceeded is registered by draft-ietf-httpapi-ratelimit-headers-10, with violated-policies.
const quotaExceeded = "https://iana.org/assignments/http-problem-types#quota-exceeded"

var internal = kind{503, unavailable, noType, "Service Unavailable", "INTERNAL"}

// kindOf has a row for each way to refuse. What it does not know, ReasonAdmitted
// included, is an internal error: a refusal can't become anything else here.
func kindOf(r gate.Reason) kind {
	switch r {
	case gate.ReasonUnauthenticated:
		return kind{401, unauthenticated, noType, "Unauthorized", "UNAUTHENTICATED"}
	case gate.ReasonSuspended:
		return kind{403, permissionDenied, noType, "Forbidden", "TENANT_SUSPENDED"}
	case gate.ReasonForbidden:
		return kind{403, permissionDenied, noType, "Forbidden", "FORBIDDEN"}
	case gate.ReasonMalformed:
		return kind{400, invalidArgument, noType, "Bad Request", "MALFORMED"}
	case gate.ReasonOverLimit:
		return kind{429, resourceExhausted, quotaExceeded, "Quota Exceeded", "OVER_LIMIT"}
	case gate.ReasonUnavailable:
		return kind{503, unavailable, noType, "Service Unavailable", "STORE_UNAVAILABLE"}
	default:
		return internal
	}
}

// Status is the HTTP status and the gRPC code of a refusal for that reason.
func Status(r gate.Reason) (http int, grpc uint32) {
	k := kindOf(r)
	return k.status, k.code
}

// Challenge is the value of www-authenticate (RFC 9110, 11.6.1) on a 401.
const Challenge = `Bearer realm="sluice"`

// Writer writes answers. It is safe for concurrent use.
type Writer struct {
	format Format
	fields fieldCache
}

// NewWriter returns a writer whose rate-limit fields have that format.
func NewWriter(f Format) *Writer { return &Writer{format: f} }

// Admitted writes into a the headers that the response to an admitted request
// gets: the rate-limit fields. It leaves the status zero.
func (w *Writer) Admitted(a *Answer, d *gate.Decision) {
	a.reset()
	w.appendFields(a, d)
}

// Refused writes into a the refusal of d, as the caller's protocol has it.
func (w *Writer) Refused(a *Answer, d *gate.Decision, grpc bool) {
	a.reset()
	k := kindOf(d.Reason)
	a.Status, a.Code = k.status, k.code
	retry, retryable := retryAfter(d)
	if grpc {
		a.add("content-type", "application/grpc")
		a.header("grpc-status", strconv.AppendUint(a.buf, uint64(k.code), 10))
		a.header("grpc-message", appendGRPCMessage(a.buf, d.Detail, k.title))
		a.header("grpc-status-details-bin", appendDetails(a.buf, d, k, retry))
	} else {
		a.add("content-type", "application/problem+json")
		mark := len(a.buf)
		a.buf = appendProblem(a.buf, d, k)
		a.Body = a.buf[mark:]
	}
	if k.status == 401 {
		a.add("www-authenticate", Challenge)
	}
	if retryable {
		a.header("retry-after", strconv.AppendInt(a.buf, retry, 10))
	}
	if d.ID != ([16]byte{}) {
		a.header(tenant.DecisionHeader, AppendID(a.buf, d.ID))
	}
	w.appendFields(a, d)
}

// AppendID appends the text of a decision id, as gate.FormatID has it.
func AppendID(b []byte, id [16]byte) []byte { return hex.AppendEncode(b, id[:]) }

func (a *Answer) reset() {
	clear(a.Headers)
	*a = Answer{Headers: a.Headers[:0], buf: a.buf[:0]}
}

// header adds one whose value is what grown has beyond a.buf; none if that is
// nothing. When grown has moved, the values so far keep the old array.
func (a *Answer) header(name string, grown []byte) {
	value := grown[len(a.buf):len(grown):len(grown)]
	if len(value) == 0 {
		return
	}
	a.buf = grown
	a.Headers = append(a.Headers, Header{name, value})
}

func (a *Answer) add(name, value string) { a.header(name, append(a.buf, value...)) }

// retryAfter is how many whole seconds, at least 1, until every limit that
// refused would admit. It is false where waiting does not help, and says nothing then.
func retryAfter(d *gate.Decision) (seconds int64, ok bool) {
	if d.Reason != gate.ReasonOverLimit {
		return 0, false
	}
	charges, outcomes := d.Limits()
	for i := range outcomes {
		if !refused(&charges[i], &outcomes[i]) {
			continue
		}
		s, finite := ceilSeconds(outcomes[i].RetryAfter)
		if !finite {
			return 0, false
		}
		seconds, ok = max(seconds, s, 1), true
	}
	return seconds, ok
}
