package loadtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/voicecore-ai/sluice/tenant"
)

// protoFile is what the service and the script have of it, below protos.
const protoFile = "voicecore/calls/v1/calls.proto"

// protos is the folder of the services' definitions.
func (o *Options) protos() string { return filepath.Join(o.Root, "loadtest", "proto") }

// calls is a gRPC service behind Envoy. It answers with whose request it was, and counts.
type calls struct {
	port   string
	server *grpc.Server
	served atomic.Int64
}

// startCalls starts the service that the definitions in that folder have.
func startCalls(ctx context.Context, protos string) (*calls, error) {
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{protos}}}
	files, err := compiler.Compile(ctx, protoFile)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &calls{server: grpc.NewServer()}
	_, c.port, _ = net.SplitHostPort(l.Addr().String())
	for i := range files[0].Services().Len() {
		c.register(files[0].Services().Get(i))
	}
	go c.server.Serve(l) //nolint:errcheck // ends by Stop
	return c, nil
}

func (c *calls) register(service protoreflect.ServiceDescriptor) {
	d := &grpc.ServiceDesc{ServiceName: string(service.FullName()), HandlerType: (*any)(nil)}
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		d.Methods = append(d.Methods, grpc.MethodDesc{MethodName: string(method.Name()), Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := dynamicpb.NewMessage(method.Input())
			if err := decode(request); err != nil {
				return nil, err
			}
			c.served.Add(1)
			return answerCall(ctx, method, request)
		}})
	}
	c.server.RegisterService(d, c)
}

// answerCall fills in what of the response has a name that it knows: the tenant, and what the request has as well.
func answerCall(ctx context.Context, method protoreflect.MethodDescriptor, request *dynamicpb.Message) (any, error) {
	response := dynamicpb.NewMessage(method.Output())
	fields := method.Output().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch same := method.Input().Fields().ByName(field.Name()); {
		case field.Name() == "tenant":
			md, _ := metadata.FromIncomingContext(ctx)
			whose := md.Get(tenant.Header)
			if len(whose) > 1 {
				return nil, status.Error(codes.Internal, fmt.Sprintf("%d tenants: %q", len(whose), whose))
			}
			if len(whose) == 1 {
				response.Set(field, protoreflect.ValueOfString(whose[0]))
			}
		case same != nil:
			response.Set(field, request.Get(same))
		default:
			return nil, errors.New("the service does not know what to say for " + string(field.FullName()))
		}
	}
	return response, nil
}
