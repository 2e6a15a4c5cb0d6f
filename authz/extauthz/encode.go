package extauthz

import (
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/tenant"
)

// Field numbers of the response, as far as they are written.
const (
	responseStatus   = 1
	responseDenied   = 2
	responseOK       = 3
	responseMetadata = 4

	statusCode = 1

	deniedStatus  = 1
	deniedHeaders = 2
	deniedBody    = 3

	okHeaders         = 2
	okHeadersToRemove = 5
	okResponseHeaders = 6

	optionHeader = 1
	optionAppend = 2
	optionAction = 3

	structFields = 1
	entryKey     = 1
	entryValue   = 2
	valueString  = 3

	overwriteIfExistsOrAdd = 2 // HeaderValueOption.HeaderAppendAction

)

// allow writes the one response that lets a request pass. A decision that names
// no tenant though it should, or a name that is no header value, is refused: the upstream would
// otherwise trust what it does not get.
func (s *Server) allow(c *call, d *gate.Decision) *rawpb.Raw {
	if !d.Allowed() || !d.Forwardable() {
		return s.refuse(c, &gate.Decision{ID: d.ID, Detail: "the tenant can't be told to the service"})
	}
	var id [32]byte
	answer.AppendID(id[:0], d.ID)
	b := make([]byte, 0, 1024)

	b, status := rawpb.Open(b, responseStatus) // code 0, written out: not an empty message by accident
	b = rawpb.AppendUint(b, statusCode, 0)
	b = rawpb.Close(b, status)

	b, ok := rawpb.Open(b, responseOK)
	b = appendHeader(b, okHeaders, tenant.Header, string(d.Tenant))
	b = appendHeader(b, okHeaders, tenant.PrincipalHeader, d.Principal.Name)
	b = appendHeader(b, okHeaders, tenant.PlanHeader, d.Plan)
	b = appendHeader(b, okHeaders, tenant.DecisionHeader, id[:])
	b = appendHeader(b, okHeaders, tenant.TokenHeader, d.Token)
	c.stripped = c.reader.AppendStripped(c.stripped[:0], func(name string) bool { return written(d, name) })
	for _, name := range c.stripped {
		b = rawpb.AppendString(b, okHeadersToRemove, name)
	}
	s.o.Answers.Admitted(&c.answer, d)
	for _, h := range c.answer.Headers {
		b = appendHeader(b, okResponseHeaders, h.Name, h.Value)
	}
	b = rawpb.Close(b, ok)
	return rawpb.New(appendMetadata(b, d, id[:]))
}

// written must agree with the headers that allow sets: appendHeader leaves out empty values.
func written(d *gate.Decision, name string) bool {
	switch {
	case strings.EqualFold(name, tenant.DecisionHeader):
		return true
	case strings.EqualFold(name, tenant.Header):
		return d.Tenant != "" // none in the soft stage, where a client's must go all the same
	case strings.EqualFold(name, tenant.PrincipalHeader):
		return d.Principal.Name != ""
	case strings.EqualFold(name, tenant.PlanHeader):
		return d.Plan != ""
	case strings.EqualFold(name, tenant.TokenHeader):
		return len(d.Token) > 0
	default:
		return false
	}
}

// refuse writes a refusal. Its status is never OK.
func (s *Server) refuse(c *call, d *gate.Decision) *rawpb.Raw {
	a := &c.answer
	s.o.Answers.Refused(a, d, c.reader.GRPC)
	b := make([]byte, 0, 1024)
	b, status := rawpb.Open(b, responseStatus)
	b = rawpb.AppendUint(b, statusCode, max(uint64(a.Code), 1))
	b = rawpb.Close(b, status)

	b, denied := rawpb.Open(b, responseDenied)
	b, http := rawpb.Open(b, deniedStatus)
	b = rawpb.AppendUint(b, statusCode, uint64(a.Status))
	b = rawpb.Close(b, http)
	for _, h := range a.Headers {
		b = appendHeader(b, deniedHeaders, h.Name, h.Value)
	}
	if len(a.Body) > 0 {
		b = rawpb.AppendString(b, deniedBody, a.Body)
	}
	b = rawpb.Close(b, denied)

	var id [32]byte
	if d.ID == ([16]byte{}) {
		return rawpb.New(b)
	}
	return rawpb.New(appendMetadata(b, d, answer.AppendID(id[:0], d.ID)))
}

// appendHeader appends a HeaderValueOption that overwrites, said in both the
// old way (append) and the new (append_action). An empty value is left out: Envoy drops it.
func appendHeader[T string | []byte](b []byte, field protowire.Number, name string, value T) []byte {
	if len(value) == 0 {
		return b
	}
	b, option := rawpb.Open(b, field)
	b, header := rawpb.Open(b, optionHeader)
	b = rawpb.AppendString(b, headerKey, name)
	b = rawpb.AppendString(b, headerValue, value)
	b = rawpb.Close(b, header)
	b = rawpb.AppendString(b, optionAppend, "") // BoolValue false
	b = rawpb.AppendUint(b, optionAction, overwriteIfExistsOrAdd)
	return rawpb.Close(b, option)
}

// appendMetadata appends the dynamic metadata by which the access log finds the
// decision again.
func appendMetadata(b []byte, d *gate.Decision, id []byte) []byte {
	b, metadata := rawpb.Open(b, responseMetadata)
	b = appendField(b, tenant.MetadataDecision, id)
	b = appendField(b, tenant.MetadataTenant, string(d.Tenant))
	b = appendField(b, tenant.MetadataPlan, d.Plan)
	b = appendField(b, tenant.MetadataPrincipal, d.Principal.Name)
	var proof [128]byte
	b = appendField(b, tenant.MetadataProof, d.AppendProof(proof[:0]))
	if d.Degraded() {
		b = appendField(b, tenant.MetadataDegraded, "true")
	}
	return rawpb.Close(b, metadata)
}

// appendField appends one string field of a google.protobuf.Struct.
func appendField[T string | []byte](b []byte, key string, value T) []byte {
	if len(value) == 0 {
		return b
	}
	b, entry := rawpb.Open(b, structFields)
	b = rawpb.AppendString(b, entryKey, key)
	b, v := rawpb.Open(b, entryValue)
	b = rawpb.AppendString(b, valueString, value)
	b = rawpb.Close(b, v)
	return rawpb.Close(b, entry)
}
