package answer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/voicecore-ai/sluice/gate"
)

// Domain is google.rpc.ErrorInfo.domain of every refusal.
const Domain = "sluice.voicecore.ai"

// appendProblem appends the problem details of RFC 9457. The member violated-policies
// is the one that the type quota-exceeded is registered with.
func appendProblem(b []byte, d *gate.Decision, k kind) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, k.typ...)
	b = append(b, `","title":"`...)
	b = append(b, k.title...)
	b = append(b, `","status":`...)
	b = fmt.Append(b, k.status)
	if d.Detail != "" {
		b = append(b, `,"detail":`...)
		b = appendJSON(b, d.Detail)
	}
	separator := `,"violated-policies":[`
	charges, outcomes := d.Limits()
	for i := range outcomes {
		if d.Reason != gate.ReasonOverLimit || !refused(&charges[i], &outcomes[i]) {
			continue
		}
		b = append(b, separator...)
		b = appendJSON(b, charges[i].Limit.Name)
		separator = ","
	}
	if separator == "," {
		b = append(b, ']')
	}
	if d.ID != ([16]byte{}) {
		b = append(b, `,"decision-id":"`...)
		b = append(AppendID(b, d.ID), '"')
	}
	return append(b, '}')
}

func appendJSON(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) //nolint:errcheck,errchkjson // a string always has a JSON form
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendGRPCMessage percent-encodes as the gRPC protocol has it.
func appendGRPCMessage(b []byte, detail, title string) []byte {
	const digits = "0123456789ABCDEF"
	if detail == "" {
		detail = title
	}
	for i := range len(detail) {
		c := detail[i]
		if c < ' ' || c > '~' || c == '%' {
			b = append(b, '%', digits[c>>4], digits[c&15])
			continue
		}
		b = append(b, c)
	}
	return b
}

// appendDetails appends grpc-status-details-bin: a google.rpc.Status in base64
// without padding, as gRPC wants binary headers. retry is 0 where waiting does not help.
func appendDetails(b []byte, d *gate.Decision, k kind, retry int64) []byte {
	encoded, err := (proto.MarshalOptions{Deterministic: true}).Marshal(details(d, k, retry))
	if err != nil { // a string of the catalogue is not UTF-8; grpc-status still stands
		return b
	}
	return base64.RawStdEncoding.AppendEncode(b, encoded)
}

func details(d *gate.Decision, k kind, retry int64) *status.Status {
	info := &errdetails.ErrorInfo{Reason: k.reason, Domain: Domain}
	if d.ID != ([16]byte{}) {
		info.Metadata = map[string]string{"decision_id": gate.FormatID(d.ID)}
	}
	message := d.Detail
	if message == "" {
		message = k.title
	}
	s := &status.Status{Code: int32(k.code), Message: message}
	s.Details = appendAny(s.Details, info)
	if retry > 0 {
		s.Details = appendAny(s.Details, &errdetails.RetryInfo{
			RetryDelay: durationpb.New(time.Duration(retry) * time.Second),
		})
	}
	if d.Reason != gate.ReasonOverLimit {
		return s
	}
	var failure errdetails.QuotaFailure
	charges, outcomes := d.Limits()
	for i := range outcomes {
		if !refused(&charges[i], &outcomes[i]) {
			continue
		}
		limit := charges[i].Limit
		failure.Violations = append(failure.Violations, &errdetails.QuotaFailure_Violation{
			Subject:     subject(d.Tenant),
			Description: fmt.Sprintf("%s: %d in %s", limit.Name, limit.Hits, limit.Window),
		})
	}
	if len(failure.Violations) > 0 {
		s.Details = appendAny(s.Details, &failure)
	}
	return s
}

func appendAny(to []*anypb.Any, m proto.Message) []*anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		return to
	}
	return append(to, a)
}
