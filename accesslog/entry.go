package accesslog

import (
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/voicecore-ai/sluice/authz/rawpb"
	"github.com/voicecore-ai/sluice/tenant"
)

// decode reads an entry. Where a string of a client's choice makes the runtime
// refuse it, what no client writes is read alone: bytes in a path must not free
// a caller from being charged or audited.
func decode(encoded []byte) (*datav3.HTTPAccessLogEntry, bool) {
	log := new(datav3.HTTPAccessLogEntry)
	if proto.Unmarshal(encoded, log) == nil {
		return log, true
	}
	salvaged, ok := keep(encoded, entryKept)
	if !ok {
		return nil, false
	}
	log.Reset()
	return log, proto.Unmarshal(salvaged, log) == nil
}

// kept says what of a message survives: the fields listed, each as far as its own
// kept says; nil keeps all of a field. Of a map whose entry is set, only that one survives.
type kept struct {
	fields map[protowire.Number]*kept
	entry  string
}

var entryKept = &kept{fields: map[protowire.Number]*kept{
	1: {fields: map[protowire.Number]*kept{ // common_properties
		5: nil, 12: nil, 13: nil, 16: nil, 23: nil, 24: nil, 33: nil, // times, upstream, flags, attempts, type
		17: {fields: map[protowire.Number]*kept{ // metadata
			1: {entry: tenant.MetadataNamespace}, // filter_metadata: other filters may hold a client's words
		}},
	}},
	2: nil,                                                            // protocol_version
	3: {fields: map[protowire.Number]*kept{1: nil, 11: nil, 12: nil}}, // request: method, sizes
	4: {fields: map[protowire.Number]*kept{1: nil, 2: nil, 3: nil}},   // response: code, sizes
}}

func keep(message []byte, k *kept) (out []byte, ok bool) {
	for len(message) > 0 {
		number, wire, n := protowire.ConsumeField(message)
		if n < 0 {
			return nil, false
		}
		field := message[:n]
		message = message[n:]
		below, wanted := k.fields[number]
		switch {
		case !wanted:
		case below == nil:
			out = append(out, field...)
		case wire == protowire.BytesType:
			_, _, tag := protowire.ConsumeTag(field)
			value, _ := protowire.ConsumeBytes(field[tag:])
			if below.entry != "" {
				if mapKey(value) == below.entry {
					out = append(out, field...)
				}
				continue
			}
			inner, ok := keep(value, below)
			if !ok {
				return nil, false
			}
			out = rawpb.AppendString(out, number, inner)
		}
	}
	return out, true
}

func mapKey(entry []byte) (key string) {
	w := rawpb.Walk(entry)
	for number, value, ok := w.Next(); ok; number, value, ok = w.Next() {
		if number == 1 {
			key = string(value)
		}
	}
	return key
}

// phase says which entries matter: the last word of a request, and the reports
// of a long one in between.
func phase(log *datav3.HTTPAccessLogEntry) (r Result, relevant bool) {
	switch log.GetCommonProperties().GetAccessLogType() {
	case datav3.AccessLogType_DownstreamEnd:
		return Settled, true
	case datav3.AccessLogType_DownstreamPeriodic:
		return Renewed, true
	default:
		return Ignored, false
	}
}

func fields(log *datav3.HTTPAccessLogEntry) map[string]*structpb.Value {
	return log.GetCommonProperties().GetMetadata().GetFilterMetadata()[tenant.MetadataNamespace].GetFields()
}

func decisionID(log *datav3.HTTPAccessLogEntry) string {
	return fields(log)[tenant.MetadataDecision].GetStringValue()
}

// Bounds of the strings of an entry, in bytes.
const (
	maxName = 256 // our own metadata
	maxText = 512
)

func newEntry(id [16]byte, peer string, final bool, log *datav3.HTTPAccessLogEntry) Entry {
	common, request, response := log.GetCommonProperties(), log.GetRequest(), log.GetResponse()
	ours := fields(log)
	e := Entry{
		ID: id, Peer: peer, Final: final,
		Tenant:    clip(ours[tenant.MetadataTenant].GetStringValue(), maxName),
		Plan:      clip(ours[tenant.MetadataPlan].GetStringValue(), maxName),
		Principal: clip(ours[tenant.MetadataPrincipal].GetStringValue(), 2048),
		Start:     common.GetStartTime().AsTime(),
		Duration:  common.GetDuration().AsDuration(),
		Authority: clip(request.GetAuthority(), maxText),
		RequestID: clip(request.GetRequestId(), maxText),
		Route:     clip(common.GetRouteName(), maxText),
		Cluster:   clip(common.GetUpstreamCluster(), maxText),
		Attempts:  common.GetUpstreamRequestAttemptCount(),
		Code:      response.GetResponseCode().GetValue(),
		Flags:     flagsOf(common.GetResponseFlags()),
		Details:   clip(response.GetResponseCodeDetails(), maxText),
		BytesIn:   request.GetRequestHeadersBytes() + request.GetRequestBodyBytes(),
		BytesOut:  response.GetResponseHeadersBytes() + response.GetResponseBodyBytes(),
	}
	if request.GetRequestMethod() != 0 {
		e.Method = request.GetRequestMethod().String()
	}
	if e.Attempts == 0 && common.GetUpstreamRemoteAddress() != nil {
		e.Attempts = 1
	}
	if common.GetDuration() == nil {
		e.Duration = common.GetTimeToLastDownstreamTxByte().AsDuration()
	}
	path := request.GetPath()
	if original := request.GetOriginalPath(); original != "" {
		path = original
	}
	path, _, _ = strings.Cut(path, "?")
	e.Path = clip(path, maxText)
	e.GRPC, e.GRPCStatus = grpcStatus(log)
	return e
}

// grpcStatus is found in the trailers, or in the headers of a response that has
// nothing else. It is there only if Envoy is told to log it.
func grpcStatus(log *datav3.HTTPAccessLogEntry) (grpc bool, code uint32) {
	const (
		name    = "grpc-status"
		unknown = 2
	)
	response := log.GetResponse()
	text, found := response.GetResponseTrailers()[name]
	if !found {
		text, found = response.GetResponseHeaders()[name]
	}
	if !found {
		return isGRPC(response.GetResponseHeaders()["content-type"]) ||
			isGRPC(log.GetRequest().GetRequestHeaders()["content-type"]), unknown
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return true, unknown
	}
	return true, uint32(n)
}

func isGRPC(contentType string) bool {
	rest, found := strings.CutPrefix(contentType, "application/grpc")
	return found && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// clip cuts s to at most n bytes, between runes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Flags are Envoy's response flags, as the bits of their field numbers in
// envoy.data.accesslog.v3.ResponseFlags.
type Flags uint64

// flagsOf reads every boolean; reasons in embedded messages (unauthorized_details)
// set their bit and are told by Details.
func flagsOf(f *datav3.ResponseFlags) (flags Flags) {
	if f == nil {
		return 0
	}
	f.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if n := field.Number(); n > 0 && n < 64 {
			flags |= 1 << n
		}
		return true
	})
	return flags
}

// Names are the flags as the API spells them, in the order of their numbers.
func (f Flags) Names() []string {
	if f == 0 {
		return nil
	}
	names := make([]string, 0, bits.OnesCount64(uint64(f)))
	known := (*datav3.ResponseFlags)(nil).ProtoReflect().Descriptor().Fields()
	for n := range protowire.Number(64) {
		if f&(1<<n) == 0 {
			continue
		}
		if field := known.ByNumber(n); field != nil {
			names = append(names, string(field.Name()))
		}
	}
	return names
}
