package runner

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/sobek"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// rpc is one call of a script.
type rpc struct {
	method   protoreflect.MethodDescriptor
	name     string // /package.Service/Method
	request  *dynamicpb.Message
	metadata metadata.MD
	tags     *tagSet
	timeout  time.Duration
	discard  bool
}

// invoke calls a unary method and gives its answer, whatever its status.
func (c *grpcClient) invoke(call sobek.FunctionCall) sobek.Value {
	v := c.v
	if c.conn == nil {
		panic(v.rt.NewTypeError("invoke: there is no connection; call connect first, in the function that iterations call"))
	}
	r := c.rpc(call)
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(v.ctx, r.metadata), r.timeout)
	defer cancel()
	response := dynamicpb.NewMessage(r.method.Output())
	var headers, trailers metadata.MD
	start := time.Now()
	err := c.conn.Invoke(ctx, r.name, r.request, response, grpc.Header(&headers), grpc.Trailer(&trailers))
	took := time.Since(start)
	if v.ctx.Err() != nil {
		return v.stopped()
	}
	s := status.Convert(err)
	c.sample(r, s.Code(), took)
	message, failure := sobek.Null(), sobek.Null()
	if err == nil && !r.discard {
		message = c.shown(response)
	}
	if err != nil {
		failure = c.failure(s)
	}
	return v.strict("a gRPC response", map[string]sobek.Value{
		"status": v.rt.ToValue(int64(s.Code())), "message": message, "headers": v.shownMetadata(headers), "trailers": v.shownMetadata(trailers), "error": failure,
	})
}

// rpc reads what a script wants to call.
func (c *grpcClient) rpc(call sobek.FunctionCall) *rpc {
	v := c.v
	r := &rpc{name: "/" + strings.TrimPrefix(call.Argument(0).String(), "/"), tags: v.tags, timeout: 2 * time.Minute}
	service, method, _ := strings.Cut(r.name[1:], "/")
	found, err := c.files.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	ok := false
	if err == nil {
		r.method, ok = found.(protoreflect.MethodDescriptor)
	}
	if !ok {
		panic(v.rt.NewTypeError("invoke: no loaded definition has a method %s; want package.Service/Method", r.name))
	}
	if r.method.IsStreamingClient() || r.method.IsStreamingServer() {
		v.unsupported("invoke: " + r.name + " is a stream, and this runner has unary calls only")
	}
	r.request = dynamicpb.NewMessage(r.method.Input())
	text, err := v.json(call.Argument(1))
	if err == nil && (text == nil || string(text) == "null") {
		err = errors.New("there is none; want an object, {} for an empty message")
	}
	if err == nil {
		err = protojson.UnmarshalOptions{Resolver: dynamicpb.NewTypes(c.files)}.Unmarshal(text, r.request)
	}
	if err != nil {
		panic(v.rt.NewGoError(fmt.Errorf("invoke: the request of %s: %w", r.name, err)))
	}
	params := call.Argument(2)
	if sobek.IsUndefined(params) || sobek.IsNull(params) {
		return r
	}
	object := params.ToObject(v.rt)
	for _, key := range object.Keys() {
		switch value := object.Get(key); key {
		case "metadata":
			r.metadata = v.metadataOf(value)
		case "tags":
			r.tags = v.tagsOf(value)
		case "timeout":
			r.timeout = v.durationOf("invoke: timeout", value)
		case "discardResponseMessage":
			r.discard = value.ToBoolean()
		default:
			v.unsupported("invoke: this runner has no parameter " + key + "; it has discardResponseMessage, metadata, tags, timeout")
		}
	}
	return r
}

// sample adds what the call took.
func (c *grpcClient) sample(r *rpc, code codes.Code, took time.Duration) {
	service, method, _ := strings.Cut(r.name[1:], "/")
	system := map[string]string{
		"url": c.address + r.name, "name": r.name, "service": service, "method": method, "status": strconv.Itoa(int(code)),
	}
	tags := &tagSet{own: system, up: r.tags}
	if r.tags != nil && r.tags != c.v.tags { // the script's own go before
		tags = &tagSet{own: r.tags.own, up: &tagSet{own: system, up: r.tags.up}}
	}
	c.v.run.metrics.add(c.v.run.builtin.grpcDuration, ms(took), tags)
}

// shown is a message as a script's object, by protobuf's JSON mapping, with the fields that are not set.
func (c *grpcClient) shown(message *dynamicpb.Message) sobek.Value {
	text, err := protojson.MarshalOptions{EmitUnpopulated: true, Resolver: dynamicpb.NewTypes(c.files)}.Marshal(message)
	if err != nil {
		panic(c.v.rt.NewGoError(fmt.Errorf("invoke: the response: %w", err)))
	}
	return c.v.parse(text)
}

// failure is the status of a call that failed. It has details only where the definitions of all their types were loaded.
func (c *grpcClient) failure(s *status.Status) sobek.Value {
	v := c.v
	members := map[string]sobek.Value{"code": v.rt.ToValue(int64(s.Code())), "message": v.rt.ToValue(s.Message())}
	options := protojson.MarshalOptions{EmitUnpopulated: true, Resolver: dynamicpb.NewTypes(c.files)}
	var details []any
	for _, detail := range s.Proto().GetDetails() {
		text, err := options.Marshal(detail)
		if err != nil {
			return v.strict("a gRPC error with details whose types were not loaded", members)
		}
		details = append(details, v.parse(text))
	}
	members["details"] = v.rt.NewArray(details...)
	return v.strict("a gRPC error", members)
}

// shownMetadata is metadata as a script's object of arrays.
func (v *vu) shownMetadata(md metadata.MD) sobek.Value {
	object := v.rt.NewObject()
	for name, values := range md {
		items := make([]any, len(values))
		for i, value := range values {
			items[i] = value
		}
		_ = object.Set(name, v.rt.NewArray(items...))
	}
	return object
}
