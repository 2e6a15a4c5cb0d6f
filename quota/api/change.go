package api

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/voicecore-ai/sluice/quota"
	"github.com/voicecore-ai/sluice/quota/catalog"
)

// mutation is a request that changes the catalogue.
type mutation interface {
	proto.Message
	GetRequestId() string
	GetValidateOnly() bool
}

// subject is the entry that a request writes: where the catalogue's problems
// find it, and where the request has it. A request that only removes has none.
type subject struct {
	path   string // "plans[gold]"
	field  string // "plan"
	limits []quota.Limit
}

// change lets apply change the API's entries and returns what it answers. It
// keeps the promises of request_id and validate_only. The answer is
// remembered under request_id, so it must not hold a secret.
func change[Answer proto.Message](e edit, what *subject, apply func(c *catalog.Edit) (Answer, error)) (answer Answer, err error) {
	s, r, method := e.s, e.r, e.act.Method
	id := r.GetRequestId()
	if err := checkRequestID(id); err != nil {
		return answer, err
	}
	if id == "" || r.GetValidateOnly() {
		var revision uint64
		err = s.catalog.Update(func(c *catalog.Edit) (err error) {
			revision = c.Revision
			answer, err = apply(c)
			return err
		}, r.GetValidateOnly())
		return answer, e.done(what, revision, err)
	}
	body, err := bodyHash(method, r)
	if err != nil {
		return answer, err
	}
	operation := catalog.Operation{Key: sha256.Sum256([]byte("sluice quota api request id v1\x00" + id)), BodyHash: body, Now: s.now()}
	var revision uint64
	kept, replayed, err := s.catalog.Once(operation, func(c *catalog.Edit) (response []byte, err error) {
		revision = c.Revision
		if answer, err = apply(c); err != nil {
			return nil, err
		}
		return proto.Marshal(answer)
	})
	if err != nil || !replayed {
		return answer, e.done(what, revision, err)
	}
	e.act.silent = true
	answer = answer.ProtoReflect().New().Interface().(Answer) //nolint:errcheck // New makes its own kind
	if err := proto.Unmarshal(kept, answer); err != nil {
		return answer, fmt.Errorf("answer kept under a request id: %w", err)
	}
	return answer, nil
}

// done says how a change ended: to the log and the act if it holds, to the caller if not.
func (e edit) done(what *subject, revision uint64, err error) error {
	if err == nil && !e.r.GetValidateOnly() {
		e.act.Revision = revision
		e.s.log.Info("quota API: changed", "method", e.act.Method, "entry", what.path, "request_id", e.r.GetRequestId(), "revision", revision)
	}
	return what.explain(err)
}

// checkRequestID bounds what is kept for a day.
func checkRequestID(id string) error {
	const most = 64
	ok := len(id) <= most
	for i := range len(id) {
		c := id[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if !ok {
		return invalid("request_id", "no request id; write 1 to 64 of A-Z, a-z, 0-9, '-' and '_', such as a UUID")
	}
	return nil
}

func bodyHash(method string, r proto.Message) (sum [32]byte, err error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return sum, fmt.Errorf("hash the request: %w", err)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(method))) //nolint:gosec // a constant's length
	return sha256.Sum256(append(append(b, method...), body...)), nil
}

// explain turns an error of the catalogue into one for the caller.
func (what *subject) explain(err error) error {
	var problems quota.Problems
	switch {
	case errors.As(err, &problems) && what.field == "":
		return fail(codes.FailedPrecondition, "CATALOG_WOULD_BREAK", problems.Error())
	case errors.As(err, &problems):
		var v violations
		for _, p := range problems {
			v.add(what.fieldOf(p.Path), p.Wrong+"; "+p.Right)
		}
		return v.err()
	case errors.Is(err, catalog.ErrReused):
		var v violations
		v.add("request_id", "used for another request within a day; choose a new one")
		return v.because("REQUEST_ID_REUSED")
	case errors.Is(err, catalog.ErrUnknown): // ABORTED, because clients repeat UNAVAILABLE by themselves
		return fail(codes.Aborted, "CATALOG_OUTCOME_UNKNOWN", err.Error())
	case errors.Is(err, catalog.ErrUnavailable):
		return fail(codes.Unavailable, "CATALOG_UNAVAILABLE", err.Error(), retryInfo(time.Second))
	case errors.Is(err, catalog.ErrReadOnly):
		return fail(codes.FailedPrecondition, "READ_ONLY", err.Error())
	}
	return err
}

// fieldOf is the field of the request that stands behind a problem's path, or
// the path itself if the request didn't write that entry.
func (what *subject) fieldOf(path string) string {
	rest, ok := strings.CutPrefix(path, what.path+".")
	if !ok {
		return path
	}
	if limit, ok := strings.CutPrefix(rest, "limits["); ok {
		if name, after, ok := strings.Cut(limit, "]"); ok {
			for i, l := range what.limits {
				if l.Name == name {
					return what.field + ".limits[" + strconv.Itoa(i) + "]" + after
				}
			}
		}
	}
	return what.field + "." + rest
}
