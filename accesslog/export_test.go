package accesslog

// Message handles one message without a transport.
func (s *Server) Message(peer string, message []byte) { s.message(peer, message) }
