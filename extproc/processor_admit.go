package extproc

import (
	"bytes"
	"context"
	"net"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/authz"
	"github.com/voicecore-ai/sluice/authz/answer"
	"github.com/voicecore-ai/sluice/authz/headers"
	"github.com/voicecore-ai/sluice/authz/trust"
	"github.com/voicecore-ai/sluice/gate"
	"github.com/voicecore-ai/sluice/tenant"
)

// Where Envoy files the attributes that the filter's request_attributes name.
// source.principal is absent without mTLS.
const (
	attributesNamespace = "envoy.filters.http.ext_proc"
	attributePrincipal  = "source.principal"
	attributeHolder     = "connection.uri_san_local_certificate" // of the workload that Envoy stands before
	attributeSource     = "source.address"
)

// spiffeOf is an attribute if it is a SPIFFE id; "" if not.
func spiffeOf(attributes map[string]*structpb.Value, name string) string {
	id := attributes[name].GetStringValue()
	if !strings.HasPrefix(id, "spiffe://") || len(id) > trust.MaxSPIFFE {
		return ""
	}
	return id
}

// admit asks the gate once, at the request headers.
func (x *exchange) admit(ctx context.Context, in *extprocv3.ProcessingRequest, h *extprocv3.HttpHeaders) (*extprocv3.ProcessingResponse, error) {
	var reader headers.Reader
	request := gate.Request{Peer: x.peer}
	action := &request.Action
	for _, header := range h.GetHeaders().GetHeaders() {
		value := header.GetRawValue()
		switch {
		case len(value) == 0:
			value = []byte(header.GetValue())
		case header.GetValue() != "":
			reader.Malformed = "a header has two values"
		}
		name := []byte(header.GetKey())
		reader.Add(name, value)
		if len(name) > 0 && name[0] != ':' {
			action.Headers = append(action.Headers, authz.Header{Name: bytes.ToLower(name), Value: value})
		}
	}
	if h.GetHeaders() == nil && reader.Malformed == "" {
		reader.Malformed = "the request has no headers"
	}
	s := x.server
	if services := metadata.ValueFromIncomingContext(ctx, tenant.ServiceMetadata); len(services) > 1 {
		reader.Malformed = "the route names several services"
	} else if len(services) == 1 {
		action.Service = services[0]
	}
	request.Malformed, request.Credentials = reader.Malformed, reader.Credentials()
	action.Method, action.Path, action.Host, action.GRPC = reader.Method, reader.Path, reader.Host, reader.GRPC
	attributes := in.GetAttributes()[attributesNamespace].GetFields()
	request.Credentials.SPIFFE = spiffeOf(attributes, attributePrincipal)
	request.Credentials.Source, _, _ = net.SplitHostPort(attributes[attributeSource].GetStringValue())
	x.source = request.Credentials.Source
	request.Holder = spiffeOf(attributes, attributeHolder)
	began := s.o.Now()
	now := began.UnixMicro()
	// The stream is the request, and Envoy does not ask twice on it: no id is needed.
	if s.o.Trace != nil {
		ctx, request.Trace = s.o.Trace(ctx)
	}
	s.o.Gate.Admit(ctx, now, &request, &x.decision)
	if s.o.Observe != nil {
		s.o.Observe(ctx, began, &request, &x.decision)
	}
	d := &x.decision
	if d.Allowed() && !d.Forwardable() {
		x.decision = gate.Decision{ID: d.ID, Detail: "the tenant can't be told to the service"}
	}
	if !d.Allowed() {
		return x.refuse(reader.GRPC), errDone
	}
	x.phase = phaseRequest
	if ok, reason := x.goLive(now, &request); !ok {
		s.end(now, x, reason) // as the sweeper would, which may have been first: the record says that it was admitted
		return nil, errDone
	}
	mutation := &extprocv3.HeaderMutation{}
	set := func(name, value string) {
		if value != "" {
			mutation.SetHeaders = append(mutation.SetHeaders, overwrite(name, []byte(value)))
		}
	}
	set(tenant.Header, string(d.Tenant))
	set(tenant.PrincipalHeader, d.Principal.Name)
	set(tenant.PlanHeader, d.Plan)
	set(tenant.DecisionHeader, gate.FormatID(d.ID))
	set(tenant.TokenHeader, string(d.Token))
	mutation.RemoveHeaders = reader.AppendStripped(nil, func(name string) bool {
		for _, h := range mutation.SetHeaders {
			if strings.EqualFold(name, h.Header.Key) {
				return true
			}
		}
		return false
	})
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{HeaderMutation: mutation},
		}},
		DynamicMetadata: dynamicMetadata(d),
	}, nil
}

// refuse is the last message of a stream.
func (x *exchange) refuse(grpc bool) *extprocv3.ProcessingResponse {
	return x.server.refusal(&x.answer, &x.decision, grpc)
}

func (s *Server) refusal(a *answer.Answer, d *gate.Decision, grpc bool) *extprocv3.ProcessingResponse {
	s.o.Answers.Refused(a, d, grpc)
	immediate := &extprocv3.ImmediateResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(a.Status)}, //nolint:gosec // a status code of package answer
		Headers: &extprocv3.HeaderMutation{SetHeaders: overwriteAll(a.Headers)},
		Body:    a.Body,
		Details: "sluice_" + d.Reason.String(),
	}
	if grpc {
		immediate.GrpcStatus = &extprocv3.GrpcStatus{Status: a.Code}
	}
	return &extprocv3.ProcessingResponse{
		Response:        &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: immediate},
		DynamicMetadata: dynamicMetadata(d),
	}
}

func overwriteAll(from []answer.Header) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, len(from))
	for i, h := range from {
		out[i] = overwrite(h.Name, h.Value)
	}
	return out
}

// overwrite sets a header whatever was there, said in both the old way (append)
// and the new. ext_proc reads raw_value only.
func overwrite(name string, value []byte) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: value},
		Append:       wrapperspb.Bool(false),
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// dynamicMetadata is what the access log finds the decision by. Envoy takes it if the
// filter's metadata_options.receiving_namespaces.untyped lists tenant.MetadataNamespace.
func dynamicMetadata(d *gate.Decision) *structpb.Struct {
	if d.ID == ([16]byte{}) {
		return nil
	}
	fields := map[string]*structpb.Value{tenant.MetadataDecision: structpb.NewStringValue(gate.FormatID(d.ID))}
	set := func(key, value string) {
		if value != "" {
			fields[key] = structpb.NewStringValue(value)
		}
	}
	set(tenant.MetadataTenant, string(d.Tenant))
	set(tenant.MetadataPlan, d.Plan)
	set(tenant.MetadataPrincipal, d.Principal.Name)
	set(tenant.MetadataProof, string(d.AppendProof(nil)))
	if d.Degraded() {
		set(tenant.MetadataDegraded, "true")
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		tenant.MetadataNamespace: structpb.NewStructValue(&structpb.Struct{Fields: fields}),
	}}
}
