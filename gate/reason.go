package gate

// Reason says why a decision is what it is. The zero value denies.
type Reason uint8

// The reasons. Only ReasonAdmitted comes with an allowed decision.
const (
	ReasonInternal        Reason = iota // zero value: something failed; 503
	ReasonAdmitted                      // 200
	ReasonUnauthenticated               // 401: no, several or unknown credentials
	ReasonSuspended                     // 403: the tenant is suspended
	ReasonForbidden                     // 403: known, but not here
	ReasonMalformed                     // 400: the request can't be read one way only
	ReasonOverLimit                     // 429
	ReasonUnavailable                   // 503: the store or the audit log can't answer

	reasonCount = iota
)

var reasonNames = [reasonCount]string{
	"internal", "admitted", "unauthenticated", "suspended", "forbidden", "malformed", "over_limit", "unavailable",
}

// String is the reason's name in logs, metrics and answers.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown"
}

// Reasons lists every reason, for metrics.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
