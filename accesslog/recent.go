package accesslog

import "sync"

// recent is a set that remembers at least the last n ids and at most 2n: two
// halves, of which the older is dropped when the younger is full. It forgets nothing
// for being asked, and has no clock.
type recent struct {
	mu           sync.Mutex
	n            int
	young, older map[[16]byte]struct{}
}

func newRecent(n int) *recent { return &recent{n: n, young: map[[16]byte]struct{}{}} }

// add reports whether id is new.
func (r *recent) add(id [16]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known(id) {
		return false
	}
	if len(r.young) == r.n {
		r.older, r.young = r.young, make(map[[16]byte]struct{}, r.n)
	}
	r.young[id] = struct{}{}
	return true
}

func (r *recent) has(id [16]byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known(id)
}

func (r *recent) known(id [16]byte) bool {
	if _, ok := r.young[id]; ok {
		return true
	}
	_, ok := r.older[id]
	return ok
}
