package runner_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	shopProto = `syntax = "proto3";
package shop.v1;
import "shop/items.proto";
service Shop {
  rpc Order(OrderRequest) returns (OrderResponse);
  rpc Follow(OrderRequest) returns (stream OrderResponse);
}
message OrderRequest {
  Item item = 1;
  int64 how_many = 2;
  int32 fail_with = 3;
}
message OrderResponse {
  Item item = 1;
  int64 how_many = 2;
  repeated string notes = 3;
}
`
	itemsProto = `syntax = "proto3";
package shop.v1;
message Item { string name = 1; }
`
)

// shop is a gRPC server that says what it was sent, and fails as it is told. Its definitions are in dir.
func shop(t *testing.T) (address, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"shop.proto": shopProto, "items.proto": itemsProto} {
		if err := os.MkdirAll(filepath.Join(dir, "shop"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "shop", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{ImportPaths: []string{dir}}}
	compiled, err := compiler.Compile(t.Context(), "shop/items.proto", "shop/shop.proto")
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, file := range compiled {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(file))
	}
	text, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.protoset"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return serveShop(t, files), dir
}

func serveShop(t *testing.T, files *protoregistry.Files) (address string) {
	t.Helper()
	found, err := files.FindDescriptorByName("shop.v1.Shop")
	if err != nil {
		t.Fatal(err)
	}
	method := found.(protoreflect.ServiceDescriptor).Methods().ByName("Order")
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "shop.v1.Shop", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Order", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := dynamicpb.NewMessage(method.Input())
			if err := decode(request); err != nil {
				return nil, err
			}
			return order(ctx, request, dynamicpb.NewMessage(method.Output()))
		}}},
		Streams: []grpc.StreamDesc{{StreamName: "Follow", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { return nil }}},
	}, nil)
	reflectpb.RegisterServerReflectionServer(server, reflection.NewServerV1(reflection.ServerOptions{Services: server, DescriptorResolver: either{files}}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l) //nolint:errcheck // ends by Stop
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// either finds what the reflection itself is, too.
type either struct{ *protoregistry.Files }

func (e either) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	if file, err := e.Files.FindFileByPath(path); err == nil {
		return file, nil
	}
	return protoregistry.GlobalFiles.FindFileByPath(path)
}

func (e either) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	if d, err := e.Files.FindDescriptorByName(name); err == nil {
		return d, nil
	}
	return protoregistry.GlobalFiles.FindDescriptorByName(name)
}

// order says in its header and trailer what the caller's metadata were.
func order(ctx context.Context, request, response *dynamicpb.Message) (any, error) {
	in, _ := metadata.FromIncomingContext(ctx)
	if err := grpc.SetHeader(ctx, metadata.Pairs("x-seen", strings.Join(in.Get("x-key"), ","))); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("x-after", "one", "x-after", "two")); err != nil {
		return nil, err
	}
	code := codes.Code(request.Get(request.Descriptor().Fields().ByName("fail_with")).Int()) //nolint:gosec // a code
	if code == codes.DeadlineExceeded {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if code != codes.OK {
		s, err := status.New(code, "no, thank you").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	for _, name := range []protoreflect.Name{"item", "how_many"} {
		from, to := request.Descriptor().Fields().ByName(name), response.Descriptor().Fields().ByName(name)
		if request.Has(from) {
			response.Set(to, request.Get(from))
		}
	}
	return response, nil
}

func TestGRPCCallsAndTheirAnswers(t *testing.T) {
	address, dir := shop(t)
	holds(t, map[string]string{"ADDRESS": address, "PROTOS": dir}, `
import grpc, { Client, StatusOK, StatusResourceExhausted } from 'k6/net/grpc';
const client = new Client();
client.load([__ENV.PROTOS], 'shop/shop.proto');
const bundled = new Client();
bundled.loadProtoset(__ENV.PROTOS + '/shop.protoset');
export const options = { thresholds: {
  'grpc_req_duration{status:8}': ['max>0'], 'grpc_req_duration{name:/shop.v1.Shop/Order,service:shop.v1.Shop,method:Order,status:0}': ['max>0'],
  'grpc_req_duration{mood:good}': ['max>0'], 'grpc_req_duration{name:mine}': ['max>0'], data_sent: ['count>100'], data_received: ['count>100'],
} };
export default function () {
  want('connected', client.connect(__ENV.ADDRESS, { plaintext: true, timeout: '30s' }), true);
  let r = client.invoke('/shop.v1.Shop/Order', { item: { name: 'tea' }, howMany: 7 }, { metadata: { 'x-key': 'k' }, tags: { mood: 'good' } });
  want('an answer', [r.status, r.message, r.error], [StatusOK, { item: { name: 'tea' }, howMany: '7', notes: [] }, null]);
  want('headers', [r.headers['x-seen'], r.headers['x-none'], r.trailers['x-after']], [['k'], undefined, ['one', 'two']]);
  r = client.invoke('shop.v1.Shop/Order', { how_many: '8' }, { tags: { name: 'mine' } });
  want('names of the definition', [r.message, r.headers['x-seen']], [{ item: null, howMany: '8', notes: [] }, ['']]);
  want('discarded', [client.invoke('shop.v1.Shop/Order', {}, { discardResponseMessage: true })].map((r) => [r.status, r.message]), [[0, null]]);
  r = client.invoke('shop.v1.Shop/Order', { failWith: 8 });
  want('a refusal', [r.status, r.message, r.error.code, r.error.message], [StatusResourceExhausted, null, 8, 'no, thank you']);
  want('its details', r.trailers['grpc-status-details-bin'][0].includes('google.rpc.RetryInfo'), true);
  r = client.invoke('shop.v1.Shop/Order', { failWith: 4 }, { timeout: '50ms' });
  want('a timeout', [r.status, r.error.details], [grpc.StatusDeadlineExceeded, []]);
  client.close();
  bundled.connect(__ENV.ADDRESS, { plaintext: true });
  want('by a protoset', bundled.invoke('shop.v1.Shop/Order', { howMany: 9 }).message.howMany, '9');
  const told = new Client();
  told.connect(__ENV.ADDRESS, { plaintext: true, reflect: true });
  want('by reflection', told.invoke('shop.v1.Shop/Order', { item: { name: 'tea' } }).message.item, { name: 'tea' });
  want('all was tried', wants, 10);
}`)
}

func TestGRPCRefusesWhatCanNotBe(t *testing.T) {
	address, dir := shop(t)
	for what, c := range map[string]struct {
		init, iteration string
		code            int
		want            string
	}{
		"a definition that is not there":          {"client.load([__ENV.PROTOS], 'none.proto');", "", 107, "none.proto"},
		"no name of a definition":                 {"client.load([__ENV.PROTOS]);", "", 107, "want the names of .proto files"},
		"a stream":                                {"", "client.invoke('shop.v1.Shop/Follow', {});", 107, "is a stream"},
		"a parameter of connect that is not here": {"", "client.connect(__ENV.ADDRESS, { tls: {} });", 107, "this runner has no parameter tls"},
		"a parameter of invoke that is not here":  {"", "client.invoke('shop.v1.Shop/Order', {}, { none: 1 });", 107, "this runner has no parameter none"},
		"metadata of bytes":                       {"", "client.invoke('shop.v1.Shop/Order', {}, { metadata: { 'x-bin': 'a' } });", 107, "x-bin would have bytes"},
		"details of unknown types":                {"", "client.invoke('shop.v1.Shop/Order', { failWith: 8 }).error.details;", 107, `no member "details"`},
		"what a client does not have":             {"", "client.asyncInvoke('shop.v1.Shop/Order', {});", 107, `no member "asyncInvoke"`},
		// These an iteration may catch, as in k6; what is not caught is logged.
		"a call without a connection":     {"", "client.close(); client.invoke('shop.v1.Shop/Order', {});", 0, "call connect first"},
		"a method that was not loaded":    {"", "client.invoke('shop.v1.Shop/None', {});", 0, "no loaded definition has a method /shop.v1.Shop/None"},
		"a field that is not there":       {"", "client.invoke('shop.v1.Shop/Order', { none: 1 });", 0, `unknown field "none"`},
		"no request":                      {"", "client.invoke('shop.v1.Shop/Order');", 0, "want an object, {} for an empty message"},
		"definitions while it runs":       {"", "client.load([__ENV.PROTOS], 'shop/shop.proto');", 0, "only while the script is read"},
		"a server that nobody listens at": {"", "client.connect('127.0.0.1:1', { plaintext: true });", 0, "connect to 127.0.0.1:1"},
	} {
		t.Run(what, func(t *testing.T) {
			r := run(t, map[string]string{"ADDRESS": address, "PROTOS": dir}, `
import grpc from 'k6/net/grpc';
const client = new grpc.Client();
client.load([__ENV.PROTOS], 'shop/shop.proto');
`+c.init+`
export default function () {
  client.connect(__ENV.ADDRESS, { plaintext: true });
  `+c.iteration+`
}`)
			if r.code != c.code {
				t.Fatalf("exit status %d, want %d: %v\n%s", r.code, c.code, r.err, r.stderr)
			}
			said := r.stderr
			if r.err != nil {
				said += r.err.Error()
			}
			if !strings.Contains(said, c.want) {
				t.Errorf("it says %q, want %q in it", said, c.want)
			}
		})
	}
}
