package runner

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bufbuild/protocompile"
	"github.com/grafana/sobek"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// statuses are the constants of k6/net/grpc.
var statuses = map[string]codes.Code{
	"StatusOK": codes.OK, "StatusCanceled": codes.Canceled, "StatusUnknown": codes.Unknown, "StatusInvalidArgument": codes.InvalidArgument,
	"StatusDeadlineExceeded": codes.DeadlineExceeded, "StatusNotFound": codes.NotFound, "StatusAlreadyExists": codes.AlreadyExists,
	"StatusPermissionDenied": codes.PermissionDenied, "StatusResourceExhausted": codes.ResourceExhausted, "StatusFailedPrecondition": codes.FailedPrecondition,
	"StatusAborted": codes.Aborted, "StatusOutOfRange": codes.OutOfRange, "StatusUnimplemented": codes.Unimplemented, "StatusInternal": codes.Internal,
	"StatusUnavailable": codes.Unavailable, "StatusDataLoss": codes.DataLoss, "StatusUnauthenticated": codes.Unauthenticated,
}

// moduleGRPC is k6/net/grpc, unary.
func (v *vu) moduleGRPC() map[string]any {
	members := map[string]any{"Client": v.grpcClient}
	for name, code := range statuses {
		members[name] = int64(code)
	}
	return members
}

// grpcClient is a Client: what it knows of services, and one connection.
type grpcClient struct {
	v       *vu
	known   descriptorpb.FileDescriptorSet
	files   *protoregistry.Files // of known
	conn    *grpc.ClientConn
	address string
}

func (v *vu) grpcClient(sobek.ConstructorCall) *sobek.Object {
	c := &grpcClient{v: v, files: new(protoregistry.Files)}
	v.grpcs = append(v.grpcs, c)
	return v.strict("a gRPC client", map[string]sobek.Value{
		"load": v.rt.ToValue(c.load), "loadProtoset": v.rt.ToValue(c.loadProtoset), "connect": v.rt.ToValue(c.connect),
		"invoke": v.rt.ToValue(c.invoke), "close": v.rt.ToValue(func(sobek.FunctionCall) sobek.Value { c.close(); return sobek.Undefined() }),
	})
}

// learn adds what services a client knows.
func (c *grpcClient) learn(set *descriptorpb.FileDescriptorSet) error {
	for _, file := range set.GetFile() {
		if !slices.ContainsFunc(c.known.GetFile(), func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == file.GetName() }) {
			c.known.File = append(c.known.File, file)
		}
	}
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(&c.known)
	if err == nil {
		c.files = files
	}
	return err
}

// load reads definitions. Each VU asks, and the first compiles.
func (c *grpcClient) load(call sobek.FunctionCall) sobek.Value {
	v := c.v
	folders, names := []string{"."}, []string{}
	if list := call.Argument(0); !sobek.IsUndefined(list) && !sobek.IsNull(list) {
		var given []string
		if err := v.rt.ExportTo(list, &given); err != nil {
			panic(v.rt.NewTypeError("load: want an array of folders, or null, before the names of files"))
		}
		if len(given) > 0 {
			folders = given
		}
	}
	for i, folder := range folders {
		folders[i] = v.fileOf("load", folder)
	}
	for _, name := range call.Arguments[min(1, len(call.Arguments)):] {
		names = append(names, name.String())
	}
	return c.read("load", strings.Join(append(append([]string{"load"}, folders...), names...), "\x00"), func() (*descriptorpb.FileDescriptorSet, error) {
		return compile(v.run.ctx, folders, names)
	})
}

// compile compiles files, with all that they import.
func compile(ctx context.Context, folders, names []string) (*descriptorpb.FileDescriptorSet, error) {
	if len(names) == 0 {
		return nil, errors.New("want the names of .proto files after the folders")
	}
	compiler := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: folders})}
	files, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	set, seen := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	for _, file := range files {
		add(file)
	}
	return set, nil
}

func (c *grpcClient) loadProtoset(call sobek.FunctionCall) sobek.Value {
	path := c.v.fileOf("loadProtoset", call.Argument(0).String())
	return c.read("loadProtoset", "loadProtoset\x00"+path, func() (*descriptorpb.FileDescriptorSet, error) {
		text, err := os.ReadFile(path) //nolint:gosec // a script may read what its user may
		if err != nil {
			return nil, err
		}
		set := &descriptorpb.FileDescriptorSet{}
		return set, proto.Unmarshal(text, set)
	})
}

// read learns what is read once for all VUs.
func (c *grpcClient) read(what, key string, how func() (*descriptorpb.FileDescriptorSet, error)) sobek.Value {
	v := c.v
	if v.ready {
		panic(v.rt.NewTypeError("%s works only while the script is read, outside of functions that iterations call", what))
	}
	set, known := v.run.protosets.Load(key)
	if !known {
		var err error
		if set, err = how(); err != nil {
			panic(v.rt.NewGoError(fmt.Errorf("%s: %w", what, err)))
		}
		v.run.protosets.Store(key, set)
	}
	if err := c.learn(set.(*descriptorpb.FileDescriptorSet)); err != nil { //nolint:forcetypeassert // nothing else is stored
		panic(v.rt.NewGoError(fmt.Errorf("%s: %w", what, err)))
	}
	return sobek.Undefined()
}

// grpcParams are what connect is told.
type grpcParams struct {
	plaintext, reflect    bool
	metadata              metadata.MD // of reflection
	timeout               time.Duration
	receiveSize, sendSize int
}

func (c *grpcClient) connectParams(value sobek.Value) (p grpcParams) {
	v := c.v
	p.timeout = time.Minute
	if sobek.IsUndefined(value) || sobek.IsNull(value) {
		return p
	}
	params := value.ToObject(v.rt)
	for _, key := range params.Keys() {
		switch value := params.Get(key); key {
		case "plaintext":
			p.plaintext = value.ToBoolean()
		case "reflect":
			p.reflect = value.ToBoolean()
		case "reflectMetadata":
			p.metadata = v.metadataOf(value)
		case "timeout":
			p.timeout = v.durationOf("connect: timeout", value)
		case "maxReceiveSize":
			p.receiveSize = int(value.ToInteger())
		case "maxSendSize":
			p.sendSize = int(value.ToInteger())
		default:
			v.unsupported("connect: this runner has no parameter " + key + "; it has maxReceiveSize, maxSendSize, plaintext, reflect, reflectMetadata, timeout")
		}
	}
	return p
}

// connect opens the connection, and throws where there is none in time.
func (c *grpcClient) connect(call sobek.FunctionCall) sobek.Value {
	v := c.v
	if !v.ready {
		panic(v.rt.NewTypeError("connect works only in functions that iterations call"))
	}
	c.close()
	c.address = strings.TrimPrefix(strings.TrimPrefix(call.Argument(0).String(), "http://"), "https://")
	p := c.connectParams(call.Argument(1))
	ctx, cancel := context.WithTimeoutCause(v.ctx, p.timeout, fmt.Errorf("no connection within %v", p.timeout))
	defer cancel()
	err := c.dial(ctx, p)
	if err == nil && p.reflect {
		var set *descriptorpb.FileDescriptorSet
		if set, err = reflected(metadata.NewOutgoingContext(ctx, p.metadata), c.conn); err == nil {
			err = c.learn(set)
		}
	}
	if v.ctx.Err() != nil {
		return v.stopped()
	}
	if err != nil {
		c.close()
		panic(v.rt.NewGoError(fmt.Errorf("connect to %s: %w", c.address, err)))
	}
	return v.rt.ToValue(true)
}

func (c *grpcClient) dial(ctx context.Context, p grpcParams) (err error) {
	v := c.v
	var mu sync.Mutex
	var last error // why there is no connection yet
	dialer := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{Timeout: 30 * time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			mu.Lock()
			last = err
			mu.Unlock()
			return nil, err
		}
		return &countedConn{Conn: conn, sent: &v.sent, received: &v.received}, nil
	}
	secure := credentials.NewTLS(&tls.Config{InsecureSkipVerify: v.run.options.insecureSkipTLSVerify}) //nolint:gosec // as the script says
	if p.plaintext {
		secure = insecure.NewCredentials()
	}
	var sizes []grpc.CallOption
	if p.receiveSize > 0 {
		sizes = append(sizes, grpc.MaxCallRecvMsgSize(p.receiveSize))
	}
	if p.sendSize > 0 {
		sizes = append(sizes, grpc.MaxCallSendMsgSize(p.sendSize))
	}
	c.conn, err = grpc.NewClient("passthrough:///"+c.address, grpc.WithTransportCredentials(secure), grpc.WithContextDialer(dialer),
		grpc.WithDefaultCallOptions(sizes...), grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithUserAgent(v.run.options.userAgent))
	if err != nil {
		return err
	}
	c.conn.Connect()
	for state := c.conn.GetState(); state != connectivity.Ready; state = c.conn.GetState() {
		mu.Lock()
		failed := last
		mu.Unlock()
		if state == connectivity.TransientFailure && failed != nil {
			return failed
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return errors.Join(context.Cause(ctx), failed)
		}
	}
	return nil
}

func (c *grpcClient) close() {
	if c.conn != nil {
		_ = c.conn.Close() // it was in use by nobody else
		c.conn = nil
	}
}

// metadataOf is a script's object of metadata.
func (v *vu) metadataOf(value sobek.Value) metadata.MD {
	md := metadata.MD{}
	for name, text := range v.stringMap("metadata", value) {
		if strings.HasSuffix(name, "-bin") {
			v.unsupported("metadata: " + name + " would have bytes, and this runner sends texts only")
		}
		md.Append(name, text)
	}
	return md
}
