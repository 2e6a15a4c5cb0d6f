package extauthz

import "context"

// CheckBytes is Check without a transport.
func (s *Server) CheckBytes(ctx context.Context, in []byte) []byte {
	c := s.borrow()
	c.in.Bytes = append(c.in.Bytes[:0], in...)
	out := s.check(ctx, c)
	s.giveBack(c)
	return out.Bytes
}
