package authz

// Reason is what one rule has to do with a request.
type Reason struct {
	Rule    string
	Effect  string // "allow" or "deny"
	Shadow  bool
	Applies bool   // it matches, and its condition is true
	Differs string // the field that does not match, such as "what.paths"; "" if all do
	When    string // what the condition gave: "true", "false" or "error"; "" if it has none or was not asked
	Error   string // why the condition could not be evaluated
	Units   uint64 // what the condition cost
}

// Explain says for each rule, by name, why it applies to in or does not. It is
// for people: it looks at every rule, and each condition has a budget of its own.
func (r *Rules) Explain(in *Input) []Reason {
	if r == nil || !proven(in) {
		return nil
	}
	reasons := make([]Reason, len(r.rules))
	for i := range r.rules {
		reasons[i] = r.explain(&r.rules[i], in)
	}
	return reasons
}

func (r *Rules) explain(rule *compiled, in *Input) Reason {
	reason := Reason{Rule: rule.name, Effect: "allow", Shadow: rule.shadow}
	if rule.denies {
		reason.Effect = "deny"
	}
	template := 0
	if reason.Differs = rule.who.match(in, true); reason.Differs == "" {
		reason.Differs, template = rule.what.match(in.Action, foldPath(in.Action.Path))
	}
	if reason.Differs != "" {
		return reason
	}
	if rule.when == nil {
		reason.Applies = true
		return reason
	}
	e := newEvaluation(r.fresh)
	e.in = in
	holds, err := e.eval(rule, template)
	reason.Applies, reason.Units = holds, e.units()
	switch {
	case err != nil:
		reason.When, reason.Error = "error", oneLine(err.Error())
	case holds:
		reason.When = "true"
	default:
		reason.When = "false"
	}
	return reason
}
