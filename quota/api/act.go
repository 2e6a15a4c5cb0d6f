package api

import (
	"context"
	"net"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Act is one thing that the administrator did, or that somebody was refused. It
// holds no secret.
type Act struct {
	Time      int64  // Unix µs
	Actor     string // "admin"; "" for a caller who proved to be nobody
	Source    string // the caller's address without port; "" if unknown
	Method    string // the call's full name, or a method and a path where REST refused a caller before it knew the call
	Resource  string // "plans/gold"; "" if the call did not come that far
	RequestID string // as the caller chose it; "" for none
	Revision  uint64 // of the catalogue that the change made; 0 if it was refused
	Reason    string // "" for a change that was made, else why not, as ErrorInfo says it

	silent bool // nothing was made or refused: a trial, or a retry that got the first answer
}

// clip bounds what a caller chose.
func clip(s string) string {
	const most = 200
	return strings.ToValidUTF8(s[:min(len(s), most)], "\uFFFD")
}

// report tells the act of one call, if it is one to tell: every change that was
// made or refused, and every refused authentication.
func (g *guard) report(a *Act, change bool, err error) {
	if g.audit == nil || a.Actor != "" && (!change || a.silent) {
		return
	}
	a.Reason = reasonOf(err)
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("quota API: the audit of an act panicked", "method", a.Method, "panic", p)
		}
	}()
	g.audit(*a)
}

// reasonOf is the reason that an error of this API gives to programs; "" for no error.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	s := status.Convert(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	if s.Code() == codes.OK {
		return codes.Unknown.String()
	}
	return s.Code().String()
}

// source is the address of who calls. By REST the gateway calls in the process,
// without a peer, and appends the client's address to what it claims.
func source(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return withoutPort(p.Addr.String())
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	values := incoming.Get("x-forwarded-for")
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	return strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
}

func withoutPort(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
