package wiring

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/voicecore-ai/sluice/installer/profile"
)

// accessLog settles cost, frees slots and writes the audit record, with nothing on
// the request path. It is appended to whatever other logs the place has.
func accessLog(v *profile.Values, p place) ([]patch, error) {
	if !v.Sluice.Doors.AccessLog || !p.judges() {
		return nil, nil
	}
	config, err := anypb.New(&grpclogv3.HttpGrpcAccessLogConfig{
		CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
			LogName:             "sluice",
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService:         sluice(v),
			BufferFlushInterval: durationpb.New(200 * time.Millisecond),
			BufferSizeBytes:     wrapperspb.UInt32(4096),
		},
		// A gRPC call's outcome: HTTP says 200 for all of them.
		AdditionalResponseHeadersToLog:  []string{"grpc-status"},
		AdditionalResponseTrailersToLog: []string{"grpc-status"},
	})
	if err != nil {
		return nil, err
	}
	return one(merge(&hcmv3.HttpConnectionManager{
		AccessLog: []*accesslogv3.AccessLog{{
			Name:       "envoy.access_loggers.http_grpc",
			ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: config},
		}},
		// Entries while a stream lasts, by which long calls keep their slots.
		AccessLogOptions: &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: durationpb.New(10 * time.Second)},
	}))
}
