package authz

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/voicecore-ai/sluice/tenant"
)

// Bounds of conditions. CEL counts about one unit for a look-up or a comparison,
// and a tenth for each byte that a function of strings reads.
const (
	maxSource    = 16 << 10
	maxNodes     = 2000
	maxNesting   = 2 // comprehensions in comprehensions
	maxPattern   = 1 << 10
	maxProgram   = 500 // instructions of a regular expression
	perUnit      = 25  // instructions times bytes of text that cost a unit; each takes up to a few nanoseconds
	maxCondition = 20_000
	maxRequest   = 50_000 // all conditions of one request together
	maxHeaders   = 32     // that one condition reads
)

// Sizes of what a request has, as estimates take them: bytes, but for maxRoles,
// which is also how many there are.
const (
	maxShort = 16 // a method
	maxRoles = 64
	maxText  = 256
	maxLong  = 1024 // a path, a header
)

// condition is a compiled When.
type condition struct {
	program programme
	cost    uint64 // the most that CEL estimates
	tracked bool   // the estimate alone is not enough
	headers bool   // reads request.headers
	body    bool   // reads request.body
}

// programme is what an evaluation runs; [cel.Program] outside tests.
type programme interface {
	Eval(frame any) (ref.Val, *cel.EvalDetails, error)
}

// The names that a condition may use, beside path.<variable>.
const (
	varScheme  = "principal.scheme"
	varName    = "principal.name"
	varRoles   = "principal.roles"
	varTenant  = "tenant.id"
	varPlan    = "tenant.plan"
	varMethod  = "request.method"
	varHost    = "request.host"
	varPath    = "request.path"
	varService = "request.service"
	varGRPC    = "request.grpc"
	varHeaders = "request.headers"
	varTime    = "request.time"
	varBody    = "request.body"
	pathPrefix = "path."
)

// The functions and macros that a condition may use: those whose cost is known,
// that touch nothing but their arguments, and that give one result. What makes lists of
// any length, formats strings or names types is left out.
var (
	allowedMacros    = []string{operators.Has, operators.All, operators.Exists, operators.ExistsOne, operators.Map, operators.Filter}
	allowedFunctions = []string{
		operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.NotStrictlyFalse,
		operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate,
		operators.Index, operators.In,
		overloads.Size, overloads.Contains, overloads.StartsWith, overloads.EndsWith, overloads.Matches,
		overloads.TypeConvertInt, overloads.TypeConvertDouble, overloads.TypeConvertString,
		overloads.TypeConvertTimestamp, overloads.TypeConvertDuration,
		overloads.TimeGetFullYear, overloads.TimeGetMonth, overloads.TimeGetDayOfYear, overloads.TimeGetDate,
		overloads.TimeGetDayOfMonth, overloads.TimeGetDayOfWeek, overloads.TimeGetHours, overloads.TimeGetMinutes, overloads.TimeGetSeconds,
	}
)

// environments are CEL's type environments: one, and one more for each set of
// path variables.
type environments struct {
	base func() (*cel.Env, error)
	with map[string]*cel.Env
}

func newEnvironments() *environments {
	return &environments{base: sync.OnceValues(newEnv), with: map[string]*cel.Env{}}
}

// newEnv declares all that a condition may name. Names with a dot are
// variables of their own, so that only what is read is made.
func newEnv() (*cel.Env, error) {
	subset := env.NewLibrarySubset().AddIncludedMacros(allowedMacros...)
	for _, name := range allowedFunctions {
		subset.AddIncludedFunctions(env.NewFunction(name))
	}
	options := []cel.EnvOption{
		cel.StdLib(cel.StdLibSubset(subset)),
		cel.DefaultUTCTimeZone(true),
		cel.EnableErrorOnBadPresenceTest(true), // has(x.y) where x has no fields
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxSource),
		cel.ParserRecursionLimit(64),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxProgram),
		cel.ASTValidators(cel.ValidateComprehensionNestingLimit(maxNesting), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals()),
		cel.Variable(varRoles, cel.ListType(cel.StringType)),
		cel.Variable(varGRPC, cel.BoolType),
		cel.Variable(varHeaders, cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable(varTime, cel.TimestampType),
		cel.Variable(varBody, cel.DynType),
	}
	for _, name := range []string{varScheme, varName, varTenant, varPlan, varMethod, varHost, varPath, varService} {
		options = append(options, cel.Variable(name, cel.StringType))
	}
	return cel.NewCustomEnv(options...)
}

func (e *environments) get(variables []string) (*cel.Env, error) {
	base, err := e.base()
	if err != nil || len(variables) == 0 {
		return base, err
	}
	key := strings.Join(variables, " ")
	if known := e.with[key]; known != nil {
		return known, nil
	}
	options := make([]cel.EnvOption, len(variables))
	for i, name := range variables {
		options[i] = cel.Variable(pathPrefix+name, cel.StringType)
	}
	extended, err := base.Extend(options...)
	e.with[key] = extended
	return extended, err
}

// variables are those that every template has: whichever matches, they have a value.
func variables(templates []template) (names []string) {
	for i := range templates {
		var own []string
		for _, s := range templates[i].segments {
			if s.variable != "" && (i == 0 || slices.Contains(names, s.variable)) {
				own = append(own, s.variable)
			}
		}
		names = own
	}
	slices.Sort(names)
	return names
}

// condition compiles a condition, or takes the one that another rule has.
func (c *compiler) condition(source string, variables []string) *condition {
	key := strings.Join(variables, " ") + "\n" + source
	if known := c.known[key]; known != nil {
		return known
	}
	compiled := c.when(source, variables)
	c.known[key] = compiled // nil is compiled again, to name each rule's problem
	return compiled
}

// when compiles a condition, or says what is wrong with it and returns nil.
func (c *compiler) when(source string, variables []string) *condition {
	problem := func(wrong, right string) *condition {
		c.problem("when", -1, wrong, right)
		return nil
	}
	if len(source) > maxSource {
		return problem("is longer than 16 KiB", "a shorter condition, or several rules")
	}
	environment, err := c.envs.get(variables)
	if err != nil {
		return problem("can't be checked: "+oneLine(err.Error()), "rename the path variables")
	}
	checked, issues := environment.Compile(source)
	if issues.Err() != nil {
		return problem("is no condition: "+firstIssue(issues), "an expression of CEL over "+known(variables))
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return problem("gives "+checked.OutputType().String()+", not true or false", "a comparison, such as request.method == \"GET\"")
	}
	audit := auditor{types: checked.NativeRep(), strict: map[int64]bool{}, sized: map[int64]types.Kind{}, zones: map[int64]*time.Location{}, regexps: map[int64]pattern{}, indexed: map[int64]bool{}}
	if wrong, right := audit.check(); wrong != "" {
		return problem(wrong, right)
	}
	estimate, err := environment.EstimateCost(checked, sizes{})
	switch {
	case err != nil:
		return problem("has no known cost: "+oneLine(err.Error()), "a simpler condition")
	case estimate.Max > maxCondition:
		return problem("may cost "+strconv.FormatUint(estimate.Max, 10)+" units", "at most "+strconv.Itoa(maxCondition)+": no loop in a loop, fewer functions over long strings")
	}
	program, err := environment.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CustomDecoratorV2(audit.decorate))
	if err != nil {
		return problem("can't be planned: "+oneLine(err.Error()), "a simpler condition")
	}
	out := &condition{program: program, cost: estimate.Max, headers: audit.headers > 0, body: audit.body}
	out.tracked = out.cost > maxUntracked || out.body
	return out
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 300
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func firstIssue(issues *cel.Issues) string {
	for _, e := range issues.Errors() {
		return "line " + strconv.Itoa(e.Location.Line()) + ", column " + strconv.Itoa(e.Location.Column()+1) + ": " + oneLine(e.Message)
	}
	return oneLine(issues.Err().Error())
}

func known(variables []string) string {
	names := []string{
		varScheme, varName, varRoles, varTenant, varPlan, varMethod, varHost, varPath, varService, varGRPC, varHeaders, varTime, varBody,
	}
	for _, v := range variables {
		names = append(names, pathPrefix+v)
	}
	return strings.Join(names, ", ")
}

// auditor looks for what CEL's types allow and a condition must not do, and for
// the comparisons that must be strict.
type auditor struct {
	types   *ast.AST
	strict  map[int64]bool       // calls that compare a value of unknown type
	sized   map[int64]types.Kind // calls of size over one, and what it must be
	zones   map[int64]*time.Location
	regexps map[int64]pattern
	indexed map[int64]bool // uses of request.headers that name one header
	headers int
	body    bool
}

func (a *auditor) check() (wrong, right string) {
	note := func(w, r string) {
		if wrong == "" {
			wrong, right = w, r
		}
	}
	// Before its parts, so that a use of request.headers is known to be one that is allowed.
	ast.PreOrderVisit(a.types.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.CallKind:
			note(a.call(e.ID(), e.AsCall()))
		case ast.SelectKind:
			if s := e.AsSelect(); isHeaders(s.Operand()) {
				note(a.header(s.Operand(), s.FieldName()))
			}
		case ast.IdentKind:
			switch strings.TrimPrefix(e.AsIdent(), ".") {
			case varBody:
				a.body = true
			case varHeaders:
				if !a.indexed[e.ID()] {
					note("uses request.headers as a whole", headerForm)
				}
			}
		}
	}))
	if wrong == "" && a.headers > maxHeaders {
		return "reads more than 32 headers", "several rules"
	}
	return wrong, right
}

const headerForm = `request.headers["name"] or "name" in request.headers, with the name in quotes and lower case`

func isHeaders(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && strings.TrimPrefix(e.AsIdent(), ".") == varHeaders
}

func (a *auditor) call(id int64, call ast.CallExpr) (wrong, right string) {
	args := call.Args()
	switch name := call.FunctionName(); name {
	case operators.Index:
		if isHeaders(args[0]) {
			return a.literalHeader(args[0], args[1])
		}
	case operators.In:
		if isHeaders(args[1]) {
			return a.literalHeader(args[1], args[0])
		}
		a.strict[id] = a.unknown(args[0]) || a.unknown(args[1])
	case operators.Equals, operators.NotEquals:
		null := a.is(args[0], types.NullTypeKind) || a.is(args[1], types.NullTypeKind)
		a.strict[id] = !null && (a.unknown(args[0]) || a.unknown(args[1]))
	case overloads.Size:
		of := args
		if call.IsMemberFunction() {
			of = []ast.Expr{call.Target()}
		}
		a.size(id, of)
	case overloads.Matches:
		a.regexps[id], wrong, right = compilePattern(args[len(args)-1])
		return wrong, right
	default:
		if strings.HasPrefix(name, "get") && len(args) == 1 { // of a time in a zone
			return a.zone(id, args[0])
		}
	}
	return "", ""
}

// zone loads a time zone, which CEL would do for each request.
func (a *auditor) zone(id int64, e ast.Expr) (wrong, right string) {
	name, ok := literal(e)
	if ok && name != "" && name != "Local" {
		if location, err := time.LoadLocation(name); err == nil {
			a.zones[id] = location
			return "", ""
		}
	}
	return "names no time zone", `one of IANA, written out: request.time.getHours("Europe/Berlin"); leave it out for UTC`
}

func (a *auditor) is(e ast.Expr, kind types.Kind) bool { return a.types.GetType(e.ID()).Kind() == kind }

// unknown reports whether the type of e is, or holds, one that is known only at run time.
// CEL gives "x ? request.body.tags : ["a"]" the type of the known side, so every part counts.
func (a *auditor) unknown(e ast.Expr) (found bool) {
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(part ast.Expr) {
		found = found || holdsDyn(a.types.GetType(part.ID()))
	}))
	return found
}

// size has the size of a value of unknown type be that of a list: a text has one too, and a
// caller chooses which to send. A text says that it is one: size(string(x)).
func (a *auditor) size(id int64, of []ast.Expr) {
	if len(of) != 1 || !a.unknown(of[0]) {
		return
	}
	a.sized[id] = types.ListKind
	if kind := a.types.GetType(of[0].ID()).Kind(); kind == types.StringKind || kind == types.MapKind {
		a.sized[id] = kind
	}
}

func holdsDyn(t *types.Type) bool {
	return t.Kind() == types.DynKind || slices.ContainsFunc(t.Parameters(), holdsDyn)
}

// pattern is a regular expression, and the number of its instructions: each
// byte of a text may meet all of them.
type pattern struct {
	*regexp.Regexp
	size int
}

// compilePattern compiles a pattern that is written out.
func compilePattern(e ast.Expr) (p pattern, wrong, right string) {
	text, ok := literal(e)
	if !ok {
		return p, "matches a pattern that is not written out", "a literal: matches(\"^[a-z]+$\")"
	}
	if len(text) > maxPattern {
		return p, "matches a pattern longer than 1 KiB", "a shorter one"
	}
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return p, "matches a pattern that is none: " + oneLine(err.Error()), "a regular expression of RE2"
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return p, "matches a pattern that can't be compiled: " + oneLine(err.Error()), "a simpler one"
	}
	p.size = len(program.Inst) // at most maxProgram: CEL has checked
	p.Regexp, err = regexp.Compile(text)
	if err != nil {
		return p, "matches a pattern that can't be compiled: " + oneLine(err.Error()), "a simpler one"
	}
	return p, "", ""
}

// matchCost is the cost of matching a text of some length.
func matchCost(length uint64, size int) uint64 { return 1 + length*uint64(size)/perUnit }

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func (a *auditor) literalHeader(headers, name ast.Expr) (wrong, right string) {
	text, ok := literal(name)
	if !ok {
		return "reads a header whose name is not written out", headerForm
	}
	return a.header(headers, text)
}

// header notes one use of a header. Those that name the caller can be set by
// it, and credentials are authn's.
func (a *auditor) header(headers ast.Expr, name string) (wrong, right string) {
	a.indexed[headers.ID()] = true
	a.headers++
	switch {
	case !visibleText(name, 256) || strings.ContainsAny(name, `"(),/:;<=>?@[\]{}`) || strings.ToLower(name) != name:
		return "reads the header " + tenant.Quote(name) + ", which can't be one", headerForm
	case tenant.IsReservedHeader(name):
		return "reads the header " + tenant.Quote(name) + ", which only Sluice may write", "tenant.id, tenant.plan or principal.name, which are proven"
	case isCredential(name):
		return "reads the header " + tenant.Quote(name) + ", which is a credential", "principal.name or principal.roles"
	}
	return "", ""
}

// sizes are what CEL's estimate takes for the sizes of values. Nearly all real
// requests are below; the budget at run time stops the others.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(element cost.AstNode) *cost.SizeEstimate {
	path := element.Path()
	if len(path) == 0 {
		return nil
	}
	most := uint64(maxText)
	switch path[0] {
	case varScheme, varMethod:
		most = maxShort
	case varTenant, varPlan:
		most = tenant.MaxIDLength
	case varRoles:
		most = maxRoles
	case varPath, varHeaders:
		most = maxLong
	default:
		if strings.HasPrefix(path[0], pathPrefix) {
			most = maxLong
		}
	}
	return &cost.SizeEstimate{Max: most}
}

// EstimateCallCost implements cost.Estimator.
func (s sizes) EstimateCallCost(function, overload string, target *cost.AstNode, args []cost.AstNode) *cost.CallEstimate {
	if function == overloads.Matches && len(args) > 0 {
		text := args[0]
		if target != nil {
			text = *target
		}
		p, wrong, _ := compilePattern(args[len(args)-1].Expr())
		size := text.ComputedSize()
		if size == nil {
			size = s.EstimateSize(text)
		}
		if wrong != "" || size == nil {
			return nil
		}
		return &cost.CallEstimate{CostEstimate: cost.Estimate{Min: 1, Max: matchCost(min(size.Max, maxBody), p.size)}}
	}
	switch overload {
	case overloads.IntToString, overloads.DoubleToString, overloads.BoolToString, overloads.TimestampToString, overloads.DurationToString:
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(1), ResultSize: &cost.SizeEstimate{Max: 64}}
	}
	return nil
}
