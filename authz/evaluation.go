package authz

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/voicecore-ai/sluice/tenant"
)

// evaluation is the memory of one round of conditions: what they read, made
// when it is first read, and what they have cost. It is a CEL activation without a map.
type evaluation struct {
	in       *Input
	rule     *compiled
	template int

	spent   uint64 // by conditions that were not tracked, as estimated
	size    sizing
	tracker *cost.Tracker // nil until a condition is tracked
	limit   uint64

	fresh    *cost.Tracker // shared: never changed
	counting cost.Tracker

	text   [texts]ref.Val // made so far
	roles  ref.Val
	time   ref.Val
	header headers
	body   any
	parsed bool

	common common // kept for the next request
}

func newEvaluation(fresh *cost.Tracker) *evaluation { return &evaluation{fresh: fresh} }

// reset forgets the request.
func (e *evaluation) reset() {
	e.in, e.rule, e.template = nil, nil, 0
	e.spent, e.size, e.tracker, e.limit = 0, unsized, nil, 0
	clear(e.text[:])
	e.roles, e.time, e.header.all = nil, nil, nil
	e.body, e.parsed = nil, false
}

// units is what the conditions so far have cost.
func (e *evaluation) units() uint64 {
	if e.tracker == nil {
		return e.spent
	}
	return e.spent + e.tracker.ActualCost()
}

// maxUntracked is the most that a condition may cost by its estimate to be
// evaluated without counting each step, which would take half of the time.
const maxUntracked = 2500

// budget decides whether the steps of a condition are counted. They are not
// if its estimate is small, can be relied on because the request is no larger
// than the estimate takes it to be, and half of the request's budget pays for it.
func (e *evaluation) budget(c *condition) (tracked bool) {
	if !c.tracked && e.sized() && (!c.headers || e.headersSized()) && e.spent+c.cost <= maxRequest/2 {
		e.spent += c.cost
		return false
	}
	if e.tracker == nil {
		e.counting = *e.fresh
		e.tracker, e.counting.Limit = &e.counting, &e.limit
	}
	e.limit = min(e.tracker.ActualCost()+maxCondition, maxRequest-e.spent)
	return true
}

// sizing says whether a request keeps the sizes of [sizes].
type sizing uint8

const (
	unsized sizing = iota
	within
	beyond
)

func (e *evaluation) sized() bool {
	if e.size == unsized {
		e.size = within
		in := e.in
		if len(in.Principal.Roles) > maxRoles || len(in.Principal.Name) > maxText || len(in.Plan) > tenant.MaxIDLength || len(in.Tenant) > tenant.MaxIDLength ||
			len(in.Action.Method) > maxShort || len(in.Action.Host) > maxText || len(in.Action.Service) > maxText || len(in.Action.Path) > maxLong {
			e.size = beyond
		}
		for _, role := range in.Principal.Roles {
			if len(role) > maxRoles {
				e.size = beyond
			}
		}
	}
	return e.size == within
}

func (e *evaluation) headersSized() bool {
	for i := range e.in.Action.Headers {
		if len(e.in.Action.Headers[i].Value) > maxLong {
			return false
		}
	}
	return true
}

// errNoBool can't happen: Compile wants a bool.
var errNoBool = errors.New("the condition gave neither true nor false")

// eval is whether the condition of rule holds. A panic is an error.
func (e *evaluation) eval(rule *compiled, template int) (holds bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			holds, err = false, fmt.Errorf("the condition panicked: %v", p)
		}
	}()
	e.rule, e.template = rule, template
	frame, err := interpreter.NewExecutionFrame(e)
	if err != nil {
		return false, err
	}
	defer frame.Close()
	if e.budget(rule.when) {
		frame.SetCostTracker(e.tracker)
	}
	out, _, err := rule.when.program.Eval(frame)
	if err != nil {
		return false, err
	}
	b, ok := out.(types.Bool)
	if !ok {
		return false, errNoBool
	}
	return bool(b), nil
}

// Indices of evaluation.text.
const (
	textName = iota
	textTenant
	textPath
	textScheme // this and what follows is kept
	textPlan
	textMethod
	textHost
	textService
	texts
)

// Parent implements interpreter.Activation.
func (e *evaluation) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (e *evaluation) ResolveName(name string) (any, bool) {
	in := e.in
	switch name {
	case varScheme:
		return e.string(textScheme, in.Principal.Scheme.String()), true
	case varName:
		return e.string(textName, in.Principal.Name), true
	case varTenant:
		return e.string(textTenant, string(in.Tenant)), true
	case varPlan:
		return e.string(textPlan, in.Plan), true
	case varMethod:
		return e.string(textMethod, in.Action.Method), true
	case varHost:
		return e.string(textHost, in.Action.Host), true
	case varPath:
		return e.string(textPath, in.Action.Path), true
	case varService:
		return e.string(textService, in.Action.Service), true
	case varGRPC:
		return types.Bool(in.Action.GRPC), true
	case varRoles:
		if e.roles == nil {
			e.roles = e.common.list(in.Principal.Roles)
		}
		return e.roles, true
	case varTime:
		if e.time == nil {
			e.time = types.Timestamp{Time: time.UnixMicro(in.Now).UTC()}
		}
		return e.time, true
	case varHeaders:
		e.header.all, e.header.cut = in.Action.Headers, in.Action.HeadersCut
		return &e.header, true
	case varBody:
		return e.readBody(), true
	}
	if variable, ok := strings.CutPrefix(name, pathPrefix); ok && e.template < len(e.rule.what.paths) {
		if value, ok := e.rule.what.paths[e.template].value(in.Action.Path, variable); ok {
			return types.String(value), true
		}
	}
	return nil, false
}

// string makes a value of s, once: an interface needs it on the heap.
func (e *evaluation) string(i int, s string) ref.Val {
	if e.text[i] == nil {
		if kept := e.common.text[i]; kept != nil && kept == ref.Val(types.String(s)) {
			e.text[i] = kept
			return kept
		}
		if !utf8.ValidString(s) {
			return types.NewErr("a value of the request is not UTF-8")
		}
		e.text[i] = types.String(strings.Clone(s))
		if i >= textScheme {
			e.common.text[i] = e.text[i]
		}
	}
	return e.text[i]
}

// common are values that the next request is likely to have again: its
// method, host, service, scheme, plan and roles.
type common struct {
	text  [texts]ref.Val
	names []string
	roles ref.Val
}

// list is roles as a value of CEL.
func (c *common) list(roles []string) ref.Val {
	if c.roles != nil && slices.Equal(c.names, roles) {
		return c.roles
	}
	values := make([]ref.Val, len(roles))
	for i, role := range roles {
		if !utf8.ValidString(role) {
			return types.NewErr("a role is not UTF-8")
		}
		values[i] = types.String(role)
	}
	list := types.NewRefValList(types.DefaultTypeAdapter, values)
	if len(roles) <= maxRoles {
		c.names, c.roles = roles, list
	}
	return list
}

func (e *evaluation) readBody() any {
	if !e.parsed {
		e.parsed = true
		body, err := parseBody(e.in.Action)
		if err != nil {
			body = types.NewErr("request.body: %v", err)
		}
		e.body = body
	}
	return e.body
}

// headers is request.headers. A header that can't be read one way only is an
// error: one that came twice, or whose value is a list, which is how Envoy shows one that
// came twice (H-01 to H-03).
type headers struct {
	all []Header
	cut bool
}

var errCut = errors.New("the headers are not all of the request's")

// maxHeaderValue is the longest value that a condition reads.
const maxHeaderValue = 8 << 10

// Find implements traits.Mapper.
func (h *headers) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	if h.cut {
		return types.WrapErr(errCut), false
	}
	found := -1
	for i := range h.all {
		if string(h.all[i].Name) != string(name) {
			continue
		}
		if found >= 0 {
			return types.NewErr("the header %q came twice", string(name)), false
		}
		found = i
	}
	if found < 0 {
		return nil, false
	}
	value := h.all[found].Value
	switch {
	case len(value) > maxHeaderValue:
		return types.NewErr("the header %q is longer than 8 KiB", string(name)), false
	case !utf8.Valid(value):
		return types.NewErr("the header %q is not UTF-8", string(name)), false
	}
	for _, c := range value {
		if c == ',' {
			return types.NewErr("the header %q has a comma: it may be several", string(name)), false
		}
	}
	return types.String(value), true
}

// Get implements traits.Indexer.
func (h *headers) Get(key ref.Val) ref.Val {
	value, found := h.Find(key)
	if !found && value == nil {
		return types.NewErr("there is no header %v", key)
	}
	return value
}

// Contains implements traits.Container: whether it came at all.
func (h *headers) Contains(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key)
	}
	if h.cut {
		return types.WrapErr(errCut)
	}
	for i := range h.all {
		if string(h.all[i].Name) == string(name) {
			return types.True
		}
	}
	return types.False
}

// The rest of traits.Mapper. Compile lets no condition get here.

var errHeaders = errors.New("request.headers can only be asked for one header")

// Size implements traits.Sizer.
func (h *headers) Size() ref.Val { return types.WrapErr(errHeaders) }

// Iterator implements traits.Iterable.
func (h *headers) Iterator() traits.Iterator { panic(errHeaders) }

// Equal implements ref.Val.
func (h *headers) Equal(ref.Val) ref.Val { return types.WrapErr(errHeaders) }

// Type implements ref.Val.
func (h *headers) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (h *headers) Value() any { return nil }

// ConvertToNative implements ref.Val.
func (h *headers) ConvertToNative(reflect.Type) (any, error) { return nil, errHeaders }

// ConvertToType implements ref.Val.
func (h *headers) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errHeaders) }
