package authz

import (
	"fmt"
	"time"

	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// decorate replaces comparisons and sizes of values whose type is known only now,
// look-ups in a time zone, and regular expressions.
//
// CEL says that null or 5 is simply not "blocked", which would let a caller past a
// denying rule by sending the wrong type.
func (a *auditor) decorate(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok {
		return i, nil
	}
	args := call.Args()
	if zone := a.zones[i.ID()]; zone != nil && len(args) == 2 {
		return &zoned{call: call, time: args[0], zone: zone}, nil
	}
	if p := a.regexps[i.ID()]; p.Regexp != nil && len(args) == 2 {
		return &matching{call: call, text: args[0], pattern: p}, nil
	}
	if kind, ok := a.sized[i.ID()]; ok && len(args) == 1 && call.Function() == overloads.Size {
		return &sized{call: call, of: args[0], kind: kind}, nil
	}
	if a.strict[i.ID()] && len(args) == 2 {
		switch call.Function() {
		case operators.Equals, operators.NotEquals, operators.In:
			return &strict{call: call, left: args[0], right: args[1]}, nil
		}
	}
	return i, nil
}

// strict compares values of one type, and fails on others. It does not show
// that it is a call: CEL would put its own comparison in its place.
type strict struct {
	call        interpreter.InterpretableCall
	left, right interpreter.InterpretableV2
}

// ID implements interpreter.Interpretable.
func (s *strict) ID() int64 { return s.call.ID() }

// Eval implements interpreter.Interpretable.
func (s *strict) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, s.Exec)
}

// Exec implements interpreter.InterpretableV2.
func (s *strict) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	l := s.left.Exec(frame)
	if types.IsUnknownOrError(l) {
		return l
	}
	r := s.right.Exec(frame)
	if types.IsUnknownOrError(r) {
		return r
	}
	var out ref.Val
	switch s.call.Function() {
	case operators.Equals:
		out = strictEqual(l, r)
	case operators.NotEquals:
		out = strictEqual(l, r)
		if same, ok := out.(types.Bool); ok {
			out = !same
		}
	default:
		out = strictIn(l, r)
	}
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalBinary(frame, s.ID(), s.call, l, r, out)
	}
	return out
}

// strictEqual compares two scalars of one type; numbers are one type.
func strictEqual(l, r ref.Val) ref.Val {
	if !alike(l, r) {
		return types.WrapErr(fmt.Errorf("compares %s with %s", l.Type().TypeName(), r.Type().TypeName()))
	}
	return l.Equal(r)
}

func alike(l, r ref.Val) bool {
	switch l.(type) {
	case types.Int, types.Uint, types.Double:
		switch r.(type) {
		case types.Int, types.Uint, types.Double:
			return true
		}
		return false
	case types.String, types.Bool, types.Timestamp, types.Duration:
		return l.Type() == r.Type()
	}
	return false
}

// strictIn looks for value in a list of scalars of its type, or among the keys of a map that the
// condition wrote out; an object of the body is neither.
func strictIn(value, container ref.Val) ref.Val {
	switch c := container.(type) {
	case traits.Lister:
		found := types.False
		for it := c.Iterator(); it.HasNext() == types.True; {
			same := strictEqual(it.Next(), value)
			if types.IsError(same) {
				return same
			}
			if same == types.True {
				found = types.True
			}
		}
		return found
	case traits.Mapper:
		if _, ok := value.(types.String); ok {
			return c.Contains(value)
		}
	}
	return types.WrapErr(fmt.Errorf("looks for %s in %s", value.Type().TypeName(), container.Type().TypeName()))
}

// sized is the size of a value of one kind, and fails on others.
type sized struct {
	call interpreter.InterpretableCall
	of   interpreter.InterpretableV2
	kind types.Kind
}

// ID implements interpreter.Interpretable.
func (s *sized) ID() int64 { return s.call.ID() }

// Eval implements interpreter.Interpretable.
func (s *sized) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, s.Exec)
}

// Exec implements interpreter.InterpretableV2.
func (s *sized) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := s.of.Exec(frame)
	if types.IsUnknownOrError(value) {
		return value
	}
	fits := false
	switch value.(type) {
	case traits.Lister:
		fits = s.kind == types.ListKind
	case types.String:
		fits = s.kind == types.StringKind
	case traits.Mapper:
		fits = s.kind == types.MapKind
	}
	if !fits {
		return types.WrapErr(fmt.Errorf("takes the size of %s as that of a %s", value.Type().TypeName(), kindNames[s.kind]))
	}
	size := value.(traits.Sizer).Size() //nolint:errcheck // all three have one
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalUnary(frame, s.ID(), s.call, value, size)
	}
	return size
}

var kindNames = map[types.Kind]string{types.ListKind: "list", types.StringKind: "text", types.MapKind: "map"}

// matching matches a pattern that was compiled when the rule was. It pays before
// it runs, by the size of the pattern's program: CEL counts the pattern's letters, of which
// "(a?){400}" has few, and counts afterwards (B6).
type matching struct {
	call interpreter.InterpretableCall
	text interpreter.InterpretableV2
	pattern
}

// ID implements interpreter.Interpretable.
func (m *matching) ID() int64 { return m.call.ID() }

// Eval implements interpreter.Interpretable.
func (m *matching) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, m.Exec)
}

// Exec implements interpreter.InterpretableV2.
func (m *matching) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := m.text.Exec(frame)
	if types.IsUnknownOrError(value) {
		return value
	}
	text, ok := value.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(value)
	}
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalBinary(frame, m.ID(), m.call, text, types.Int(m.size), nil)
	}
	return types.Bool(m.MatchString(string(text)))
}

// newTracker counts as CEL does, but for matching.
func newTracker() *cost.Tracker {
	match := func(args []ref.Val, _ ref.Val) *uint64 {
		units := matchCost(uint64(len(args[0].(types.String))), int(args[1].(types.Int))) //nolint:errcheck // matching passes these
		return &units
	}
	t, err := cost.NewTracker(nil, cost.OverloadTracker(overloads.Matches, match), cost.OverloadTracker(overloads.MatchesString, match))
	if err != nil {
		panic("authz: CEL's cost tracker: " + err.Error()) // neither option is nil
	}
	return t
}

// zoned is a field of a time in a zone that was loaded when the rule was.
type zoned struct {
	call interpreter.InterpretableCall
	time interpreter.InterpretableV2
	zone *time.Location
}

// ID implements interpreter.Interpretable.
func (z *zoned) ID() int64 { return z.call.ID() }

// Eval implements interpreter.Interpretable.
func (z *zoned) Eval(vars interpreter.Activation) ref.Val {
	return interpreter.EvalActivation(vars, z.Exec)
}

// Exec implements interpreter.InterpretableV2.
func (z *zoned) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	value := z.time.Exec(frame)
	if types.IsUnknownOrError(value) {
		return value
	}
	stamp, ok := value.(types.Timestamp)
	if !ok {
		return types.MaybeNoSuchOverloadErr(value)
	}
	field := timeField(stamp.In(z.zone), z.call.Function())
	if costs := frame.CostTracker(); costs != nil {
		costs.EvalUnary(frame, z.ID(), z.call, value, field)
	}
	return field
}

// timeField counts as CEL does: months and the days of getDayOfMonth from 0.
func timeField(t time.Time, name string) ref.Val {
	switch name {
	case overloads.TimeGetFullYear:
		return types.Int(t.Year())
	case overloads.TimeGetMonth:
		return types.Int(t.Month() - 1)
	case overloads.TimeGetDayOfYear:
		return types.Int(t.YearDay() - 1)
	case overloads.TimeGetDate:
		return types.Int(t.Day())
	case overloads.TimeGetDayOfMonth:
		return types.Int(t.Day() - 1)
	case overloads.TimeGetDayOfWeek:
		return types.Int(t.Weekday())
	case overloads.TimeGetHours:
		return types.Int(t.Hour())
	case overloads.TimeGetMinutes:
		return types.Int(t.Minute())
	case overloads.TimeGetSeconds:
		return types.Int(t.Second())
	}
	return types.NewErr("%s knows no time zone", name)
}
