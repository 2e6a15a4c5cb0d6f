package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"sort"
)

// Sizes of a page.
const (
	defaultPage = 50
	maxPage     = 1000
	macSize     = 16
	maxToken    = 512 // bytes of text; no token of ours is longer
)

// pager makes page tokens: where the next page starts, MAC'd together with the
// collection, so that a token is only good for the list that it came from.
// A token names the last entry that was seen and not a number of entries, so an
// entry that is created or deleted meanwhile makes no other one appear twice or not at all.
type pager struct{ key []byte }

func (p pager) token(collection, last string) string {
	return base64.RawURLEncoding.EncodeToString(append(p.mac(collection, last), last...))
}

func (p pager) last(collection, token string) (string, bool) {
	if len(token) > maxToken {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) < macSize {
		return "", false
	}
	last := string(raw[macSize:])
	return last, hmac.Equal(raw[:macSize], p.mac(collection, last))
}

func (p pager) mac(collection, last string) []byte {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte(collection))
	mac.Write([]byte{0}) // no collection holds a zero byte
	mac.Write([]byte(last))
	return mac.Sum(nil)[:macSize]
}

// page is what a list request asks for.
type page interface {
	GetPageSize() int32
	GetPageToken() string
}

// cut returns the page of items, which are sorted by id, that r asks for, and
// the token of the page after it ("" if it is the last).
func cut[T any](p pager, collection string, items []T, id func(T) string, r page) ([]T, string, error) {
	size := int(r.GetPageSize())
	switch {
	case size < 0:
		return nil, "", invalid("page_size", "negative; write 0 for the default, or up to 1000")
	case size == 0:
		size = defaultPage
	case size > maxPage:
		size = maxPage
	}
	if token := r.GetPageToken(); token != "" {
		last, ok := p.last(collection, token)
		if !ok {
			return nil, "", invalid("page_token", "not one that this list gave out; leave it out to start over")
		}
		items = items[sort.Search(len(items), func(i int) bool { return id(items[i]) > last }):]
	}
	if len(items) <= size {
		return items, "", nil
	}
	return items[:size], p.token(collection, id(items[size-1])), nil
}
