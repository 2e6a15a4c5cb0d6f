package authz

// Rule is one rule as people write it. Rules have no order: a request is
// allowed if at least one rule that allows it applies and none that denies it
// does. What is left out of Who and What matches everything.
type Rule struct {
	Name        string `json:"name" yaml:"name"`
	Effect      string `json:"effect" yaml:"effect"`                               // allow or deny
	Enforcement string `json:"enforcement,omitempty" yaml:"enforcement,omitempty"` // enforce (default), shadow: say what it would do, do nothing
	Who         Who    `json:"who,omitzero" yaml:"who,omitempty"`
	What        What   `json:"what,omitzero" yaml:"what,omitempty"`
	// When is a CEL condition (docs/guide/authorization.md lists what it sees). A rule whose condition
	// can't be evaluated denies, whatever its effect.
	When string `json:"when,omitempty" yaml:"when,omitempty"`
	// Audit asks for a record of every request that the rule applies to:
	// "required" (no record, no admission) or "best_effort". Refusals are recorded anyway.
	Audit string `json:"audit,omitempty" yaml:"audit,omitempty"`
}

// Who is whom a rule is about. Lists are alternatives, fields must all match.
type Who struct {
	Tenants    []string `json:"tenants,omitempty" yaml:"tenants,omitempty"`       // ids
	Plans      []string `json:"plans,omitempty" yaml:"plans,omitempty"`           // names
	Roles      []string `json:"roles,omitempty" yaml:"roles,omitempty"`           // any of the principal's
	Principals []string `json:"principals,omitempty" yaml:"principals,omitempty"` // names, byte for byte; a trailing /* after a whole segment stands for what is below
}

// What is the action that a rule is about.
type What struct {
	Services []string `json:"services,omitempty" yaml:"services,omitempty"` // as Action.Service
	Hosts    []string `json:"hosts,omitempty" yaml:"hosts,omitempty"`       // exact, or *.example.com for any depth below
	Methods  []string `json:"methods,omitempty" yaml:"methods,omitempty"`
	// Paths are templates over whole segments: /v1/calls/{id} has one segment in
	// the braces, /v1/calls/** any number, none included. HTTP only, but in a
	// denying rule: there paths, methods and GRPC also match what some upstream takes for
	// the same (another case of letters, a slash at the end, the other protocol).
	Paths []string `json:"paths,omitempty" yaml:"paths,omitempty"`
	// GRPC names methods: package.Service/Method or package.Service/*. gRPC only.
	GRPC []string `json:"grpc,omitempty" yaml:"grpc,omitempty"`
}

// Problem is what is wrong with one field of a rule, or of an issuer (authz/trust), and what
// would be right.
type Problem struct {
	Index int    // of the rule or issuer; -1 for all of them together
	Field string // "when", "what.paths"; "" for the whole
	Item  int    // in the field's list; -1 for the field itself
	Wrong string
	Right string
}

// Class says how much depends on the record of a decision.
type Class uint8

// The classes.
const (
	Unrecorded Class = iota // no record is asked for
	BestEffort              // recorded if there is room; a gap is recorded otherwise
	Required                // no record, no admission
)

// Verdict is what the rules say. The zero value denies.
type Verdict struct {
	allowed bool
	Rule    string // the rule that decided; "" where no rule allows
	Failed  bool   // Rule's condition could not be evaluated; without Rule, nothing could
	Audit   Class  // the most that a rule which applies asks for
	// ShadowRule would decide with every rule enforced, and Shadow is what the
	// verdict would be then; "" and false if it would be the same.
	Shadow     bool
	ShadowRule string
}

// Allowed reports whether the rules let the action pass. Only Decide makes it true.
func (v Verdict) Allowed() bool { return v.allowed }
