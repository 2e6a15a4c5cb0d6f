package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	quotav1 "github.com/voicecore-ai/sluice/gen/sluice/quota/v1"
)

// role is who may call a method. The zero value is nobody.
type role uint8

const (
	nobody role = iota
	admin
)

// roles names every method that may be called. What is not in it is denied.
var roles = map[string]role{
	quotav1.QuotaService_CreatePlan_FullMethodName:   admin,
	quotav1.QuotaService_GetPlan_FullMethodName:      admin,
	quotav1.QuotaService_ListPlans_FullMethodName:    admin,
	quotav1.QuotaService_UpdatePlan_FullMethodName:   admin,
	quotav1.QuotaService_DeletePlan_FullMethodName:   admin,
	quotav1.QuotaService_CreateTenant_FullMethodName: admin,
	quotav1.QuotaService_GetTenant_FullMethodName:    admin,
	quotav1.QuotaService_ListTenants_FullMethodName:  admin,
	quotav1.QuotaService_UpdateTenant_FullMethodName: admin,
	quotav1.QuotaService_DeleteTenant_FullMethodName: admin,
	quotav1.QuotaService_CreateApiKey_FullMethodName: admin,
	quotav1.QuotaService_ListApiKeys_FullMethodName:  admin,
	quotav1.QuotaService_DeleteApiKey_FullMethodName: admin,
	quotav1.QuotaService_CreateRule_FullMethodName:   admin,
	quotav1.QuotaService_GetRule_FullMethodName:      admin,
	quotav1.QuotaService_ListRules_FullMethodName:    admin,
	quotav1.QuotaService_UpdateRule_FullMethodName:   admin,
	quotav1.QuotaService_DeleteRule_FullMethodName:   admin,
	quotav1.QuotaService_CreateIssuer_FullMethodName: admin,
	quotav1.QuotaService_GetIssuer_FullMethodName:    admin,
	quotav1.QuotaService_ListIssuers_FullMethodName:  admin,
	quotav1.QuotaService_UpdateIssuer_FullMethodName: admin,
	quotav1.QuotaService_DeleteIssuer_FullMethodName: admin,
	quotav1.QuotaService_GetUsage_FullMethodName:     admin,
}

// What one process answers. Callers without the token have a bucket of their
// own, so that they can't spend what the administrator needs.
const (
	callsPerSecond = 200
	callsAtOnce    = 400
	maxCredential  = 4096 // bytes of an authorization value that are looked at
)

type guard struct {
	digest   [32]byte
	now      func() time.Time
	log      *slog.Logger
	audit    func(Act) // nil: none
	admitted *rate.Limiter
	refused  *rate.Limiter
	logged   *rate.Limiter // lines about refused callers
}

func newGuard(o Options) *guard {
	return &guard{
		digest:   o.AdminTokenDigest,
		now:      o.Now,
		log:      o.Log,
		audit:    o.Audit,
		admitted: rate.NewLimiter(callsPerSecond, callsAtOnce),
		refused:  rate.NewLimiter(callsPerSecond, callsAtOnce),
		logged:   rate.NewLimiter(1, 5),
	}
}

// authenticate says who sent these authorization values: admin, or nobody with
// the error to answer.
func (g *guard) authenticate(authorization []string) (role, error) {
	if len(authorization) == 1 && len(authorization[0]) <= maxCredential {
		scheme, token, _ := strings.Cut(authorization[0], " ")
		sum := sha256.Sum256([]byte(token))
		if strings.EqualFold(scheme, "bearer") && token != "" && subtle.ConstantTimeCompare(sum[:], g.digest[:]) == 1 {
			return admin, nil
		}
	}
	if err := g.shield(g.refused); err != nil {
		return nobody, err
	}
	if g.logged.AllowN(g.now(), 1) {
		g.log.Warn("quota API: refused a caller without the admin token", "authorization_values", len(authorization))
	}
	return nobody, fail(codes.Unauthenticated, "UNAUTHENTICATED",
		"the admin token is missing or wrong; send exactly one 'authorization: Bearer <token>'")
}

// shield takes a token from limiter, or says when there will be one.
func (g *guard) shield(limiter *rate.Limiter) error {
	now := g.now()
	reservation := limiter.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	reservation.CancelAt(now)
	return fail(codes.ResourceExhausted, "API_RATE_LIMITED", "the quota API gets more calls than one server answers; wait and retry", retryInfo(wait))
}

// guarded runs one call of method, if its caller may make it, and reports the act.
// Every error it returns is a status without the server's inner matters.
func guarded[Request, Answer proto.Message](ctx context.Context, g *guard, method string, r Request,
	call func(Request, *Act) (Answer, error),
) (answer Answer, err error) {
	var none Answer
	act := &Act{Time: g.now().UnixMicro(), Source: source(ctx), Method: method}
	m, changes := any(r).(mutation)
	if changes {
		act.RequestID, act.silent = clip(m.GetRequestId()), m.GetValidateOnly()
	}
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("quota API: panic", "method", method, "panic", p, "stack", string(debug.Stack()))
			answer, err = none, internal()
		}
		g.report(act, changes, err)
	}()
	incoming, _ := metadata.FromIncomingContext(ctx)
	who, err := g.authenticate(incoming.Get("authorization"))
	if err != nil {
		return none, err
	}
	act.Actor = "admin"
	if may := roles[method]; may == nobody || may != who {
		return none, fail(codes.PermissionDenied, "METHOD_NOT_ALLOWED", "this method may not be called")
	}
	if err := g.shield(g.admitted); err != nil {
		return none, err
	}
	answer, err = call(r, act)
	if err == nil {
		return answer, nil
	}
	if _, ok := status.FromError(err); ok {
		return none, err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return none, status.FromContextError(err).Err()
	}
	g.log.Error("quota API: call failed", "method", method, "error", err)
	return none, internal()
}
