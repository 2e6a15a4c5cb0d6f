package api

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// domain is the ErrorInfo domain of every error of this API.
const domain = "sluice"

// fail is an error of this API: reason is for programs and never changes, message is for people.
func fail(code codes.Code, reason, message string, details ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: domain}
	s, err := status.New(code, message).WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil {
		return status.Error(code, message)
	}
	return s.Err()
}

// about is fail with the name of the resource in ErrorInfo.metadata.
func about(code codes.Code, reason, name, message string) error {
	s, err := status.New(code, name+": "+message).WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: domain, Metadata: map[string]string{"resource": name},
	})
	if err != nil {
		return status.Error(code, message)
	}
	return s.Err()
}

func internal() error {
	return fail(codes.Internal, "INTERNAL", "something failed here; the server's log says what")
}

func notFound(name string) error {
	return about(codes.NotFound, "NOT_FOUND", name, "does not exist")
}

func exists(name string) error {
	return about(codes.AlreadyExists, "ALREADY_EXISTS", name, "exists already")
}

func retryInfo(wait time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)}
}

// violations are all that is wrong with the fields of a request.
type violations []*errdetails.BadRequest_FieldViolation

// add names a field and says what is wrong; what would be right.
func (v *violations) add(field, description string) {
	*v = append(*v, &errdetails.BadRequest_FieldViolation{Field: field, Description: description})
}

// err is nil if nothing is wrong.
func (v violations) err() error { return v.because("INVALID_FIELD") }

// because is err with another reason.
func (v violations) because(reason string) error {
	if len(v) == 0 {
		return nil
	}
	message := v[0].GetField() + ": " + v[0].GetDescription()
	if len(v) > 1 {
		message += " (and more; see the field violations)"
	}
	return fail(codes.InvalidArgument, reason, message, &errdetails.BadRequest{FieldViolations: v})
}

// invalid is an error about one field.
func invalid(field, description string) error {
	var v violations
	v.add(field, description)
	return v.err()
}
