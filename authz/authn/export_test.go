package authn

// ParseXFCC and ParseKeySet are the parsers, for the tests.
var ParseXFCC = parseXFCC

// ParseKeySet reads a key set and says how many keys it has.
func ParseKeySet(body []byte) (int, error) {
	set, err := parseKeySet(body)
	if err != nil {
		return 0, err
	}
	return len(set.all), nil
}

// ReadClaims reads a token without its signature, for the fuzz of it.
func (a *Authenticator) ReadClaims(raw string) (ok bool) {
	_, parsed := decodeObject(raw)
	return parsed
}

// Remembered is how many tokens are remembered as verified.
func (a *Authenticator) Remembered() int { return a.tokens.len() }

// Sources is how many sets of keys there are, and Missing how many kids are known not to be there.
func (k *KeySets) Sources() (sources, missing int) {
	for _, s := range k.list() {
		s.mu.Lock()
		sources, missing = sources+1, missing+len(s.missing)
		s.mu.Unlock()
	}
	return sources, missing
}
