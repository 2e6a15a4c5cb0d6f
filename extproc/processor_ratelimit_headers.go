package extproc

import extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

// rateLimitHeaders adds, at the response headers, what is left of the limits
// that the request met. A response that never was a request of ours gets nothing.
func (x *exchange) rateLimitHeaders() *extprocv3.ProcessingResponse {
	common := &extprocv3.CommonResponse{}
	if x.phase == phaseResponse {
		x.server.o.Answers.Admitted(&x.answer, &x.decision)
		if len(x.answer.Headers) > 0 {
			common.HeaderMutation = &extprocv3.HeaderMutation{SetHeaders: overwriteAll(x.answer.Headers)}
		}
	}
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{
			ResponseHeaders: &extprocv3.HeadersResponse{Response: common},
		},
	}
}
