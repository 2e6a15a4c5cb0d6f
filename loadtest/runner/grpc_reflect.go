package runner

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// reflected asks a server for the definitions of all its services.
func reflected(ctx context.Context, conn *grpc.ClientConn) (*descriptorpb.FileDescriptorSet, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := reflectpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	r := &reflection{stream: stream, seen: map[string]bool{}}
	answer, err := r.ask(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{ListServices: "*"}})
	if err != nil {
		return nil, err
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		if strings.HasPrefix(service.GetName(), "grpc.reflection.") {
			continue
		}
		if err := r.file(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service.GetName()}}); err != nil {
			return nil, err
		}
	}
	return &r.set, nil
}

type reflection struct {
	stream grpc.BidiStreamingClient[reflectpb.ServerReflectionRequest, reflectpb.ServerReflectionResponse]
	set    descriptorpb.FileDescriptorSet
	seen   map[string]bool
}

func (r *reflection) ask(request *reflectpb.ServerReflectionRequest) (*reflectpb.ServerReflectionResponse, error) {
	if err := r.stream.Send(request); err != nil {
		return nil, err
	}
	answer, err := r.stream.Recv()
	if err == nil && answer.GetErrorResponse() != nil {
		err = fmt.Errorf("the server's reflection says of %v: %s", request.GetMessageRequest(), answer.GetErrorResponse().GetErrorMessage())
	}
	return answer, err
}

// file adds what is asked for, and what it imports.
func (r *reflection) file(request *reflectpb.ServerReflectionRequest) error {
	answer, err := r.ask(request)
	if err != nil {
		return err
	}
	var files []*descriptorpb.FileDescriptorProto
	for _, text := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(text, file); err != nil {
			return err
		}
		if !r.seen[file.GetName()] {
			r.seen[file.GetName()] = true
			r.set.File = append(r.set.File, file)
			files = append(files, file)
		}
	}
	for _, file := range files {
		for _, name := range file.GetDependency() {
			if r.seen[name] {
				continue
			}
			if err := r.file(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_FileByFilename{FileByFilename: name}}); err != nil {
				return err
			}
		}
	}
	return nil
}
