package rls

// Answer is what a call came to. It is valid while Options.Observe runs.
type Answer struct {
	call   *call
	result Result
	passes bool
}

// Result is why it was answered so.
func (a Answer) Result() Result { return a.result }

// Passes reports whether it was answered OK.
func (a Answer) Passes() bool { return a.passes }

// Domain is the one that the call was about; "" unless a file describes it: else a caller could say anything.
func (a Answer) Domain() string {
	if a.result == Malformed || a.result == UnknownDomain {
		return ""
	}
	return string(a.call.req.domain)
}

// Limits are the names of the limits that the call met, at most the given number: those of the places where
// the file has them, without values of the request. refused is the first that refused it.
func (a Answer) Limits(most int) (names []string, refused string) {
	if a.Domain() == "" {
		return nil, ""
	}
	for i := range a.call.met {
		m := &a.call.met[i]
		if m.rule == nil {
			continue
		}
		if refused == "" && m.over && !a.call.charges[m.charge].Shadowed() {
			refused = m.rule.name()
		}
		if len(names) < most {
			names = append(names, m.rule.name())
		}
	}
	return names, refused
}

// Each tells of every limit that was counted, in the order of the descriptors: its name as in Limits, whether it was
// over, and whether that refuses nothing.
func (a Answer) Each(tell func(limit string, over, shadowed bool)) {
	if a.result != OK && a.result != OverLimit && a.result != Shadowed {
		return
	}
	for i := range a.call.met {
		if m := &a.call.met[i]; m.charge >= 0 {
			tell(m.rule.limit.Name, m.over, a.call.charges[m.charge].Shadowed())
		}
	}
}
