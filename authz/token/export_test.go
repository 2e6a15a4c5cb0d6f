package token

// Cached is how many tokens are remembered.
func (t *Tokens) Cached() (n int) {
	for i := range t.cache.shards {
		s := &t.cache.shards[i]
		n += len(s.young) + len(s.older)
	}
	return n
}

// ParsePayload and AppendPayload, for the fuzzer: no signature stands before them.
func ParsePayload(s string) (Claims, bool) { return parsePayload(s) }

// AppendPayload is what ParsePayload reads.
func AppendPayload(b []byte, c *Claims) []byte { return appendPayload(b, c) }
