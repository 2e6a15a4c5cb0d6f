package gate

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/authn"
	"github.com/voicecore-ai/sluice/authz/token"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/quota"
)

var (
	errNoEdge = errors.New("no request begins here: show the tenant token of the hop before")
	errNobody = errors.New(authn.ErrBadCredential.Error()) // our own fault, which is nothing to tell a caller
)

// identify finds the principal and the account: by the tenant token of the hop
// before, or by the caller's own credentials.
func (g *Gate) identify(ctx context.Context, now int64, r *Request, d *Decision) verdict {
	if err := g.who(ctx, now, r, d); err != nil {
		d.Principal, d.account = authz.Principal{}, nil
		if ctx.Err() != nil { // keys that it waited for may not have come
			return d.deny(ReasonUnavailable, tooLate)
		}
		if !disproved(err) {
			return d.deny(ReasonUnauthenticated, err.Error())
		}
		return d.decline(ReasonUnauthenticated, err.Error())
	}
	d.Tenant, d.Plan = d.account.Tenant, d.account.Plan
	if d.account.Suspended {
		return d.decline(ReasonSuspended, "the tenant is suspended")
	}
	return passed
}

func (g *Gate) who(ctx context.Context, now int64, r *Request, d *Decision) (err error) {
	shown := len(r.Credentials.Tenant) > 0
	switch {
	case r.Credentials.SPIFFE != "" && trust.NotTheID(r.Credentials.SPIFFE, r.Holder, r.Credentials.XFCC):
		return authn.ErrManyCredentials
	case !shown && len(g.o.Edges) > 0 && !slices.Contains(g.o.Edges, r.Peer):
		return errNoEdge
	case shown && g.o.Tokens == nil:
		return token.ErrKey
	case shown:
		claims, account, err := g.o.Tokens.Hop(now, d.snapshot, &r.Credentials)
		var workload *quota.Account
		if err == nil {
			workload, err = g.beside(ctx, now, r, d, account)
		}
		if err != nil {
			return err
		}
		d.Principal, d.account, d.Edge, d.until = claims.Principal, account, claims.Decision, claims.Expires
		// A tenant's own workload pays as a caller from outside: it could call itself for a
		// token, and then everybody else with it.
		d.inner = workload == nil
	default:
		d.Principal, d.account, err = g.o.Authenticator.Identify(ctx, now, d.snapshot, &r.Credentials)
		if err == nil && d.account == nil {
			err = errNobody
		}
	}
	return err
}

// beside judges what is shown beside a tenant token of account. A credential of the caller's own must name the
// same tenant, and then the token decides. The holder's SPIFFE id, and the one for which a trusted proxy
// shows it, are such credentials only where they are a tenant's; then that is workload.
func (g *Gate) beside(ctx context.Context, now int64, r *Request, d *Decision, account *quota.Account) (workload *quota.Account, err error) {
	c := &r.Credentials
	workload, err = g.o.Authenticator.Workload(d.snapshot, c)
	own := workload
	if err == nil && (len(c.APIKeys) > 0 || len(c.Tokens) > 0) {
		_, own, err = g.o.Authenticator.Identify(ctx, now, d.snapshot, c)
	}
	if err == nil && own != nil && own != account {
		return nil, authn.ErrConflict
	}
	return workload, err
}

// handOver makes the tenant token that the service shows to the next hop, if
// there is a workload that can hold it: the one whose certificate the caller saw, else, where that is
// not a mesh's (a gateway that clients reach), the one whose Envoy asks. One that can't be made, for a
// name too long say, is left out: the next hop then refuses, and this one needs no token.
func (g *Gate) handOver(_ context.Context, now int64, r *Request, d *Decision) verdict {
	if d.nobody {
		return passed // there is nobody to speak for
	}
	holder := r.Holder
	if !strings.HasPrefix(holder, "spiffe://") {
		holder = r.Peer
	}
	if g.o.Tokens == nil || !strings.HasPrefix(holder, "spiffe://") {
		return passed
	}
	var err error
	d.Token, err = g.o.Tokens.Mint(d.Token[:0], now, &token.Claims{
		Principal: d.Principal, Tenant: d.Tenant, Plan: d.Plan, Decision: d.Edge, Holder: holder,
		Expires: d.until, // a workload that calls itself must not make its token anew for ever
	})
	if err != nil {
		d.Token = d.Token[:0]
	}
	return passed
}
