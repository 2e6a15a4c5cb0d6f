package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Record is one record as it was read. Field by field it is Entry, with what the log added.
type Record struct {
	Seq          uint64   `json:"seq"`
	Time         int64    `json:"time"` // Unix µs
	Kind         string   `json:"kind"`
	Required     bool     `json:"required,omitempty"`
	Tenant       string   `json:"tenant,omitempty"`
	Plan         string   `json:"plan,omitempty"`
	Principal    string   `json:"principal,omitempty"`
	Scheme       string   `json:"scheme,omitempty"`
	Roles        []string `json:"roles,omitempty"`
	Peer         string   `json:"peer,omitempty"`
	Source       string   `json:"source,omitempty"`
	Service      string   `json:"service,omitempty"`
	Method       string   `json:"method,omitempty"`
	Host         string   `json:"host,omitempty"`
	Path         string   `json:"path,omitempty"`
	GRPC         bool     `json:"grpc,omitempty"`
	Allowed      *bool    `json:"allowed,omitempty"` // nil where nothing was decided
	Reason       string   `json:"reason,omitempty"`
	Detail       string   `json:"detail,omitempty"`
	Rule         string   `json:"rule,omitempty"`
	Failed       bool     `json:"failed,omitempty"`
	Shadow       *bool    `json:"shadow,omitempty"`
	ShadowRule   string   `json:"shadow_rule,omitempty"`
	ShadowReason string   `json:"shadow_reason,omitempty"`
	Revision     uint64   `json:"revision,omitempty"`
	Decision     string   `json:"decision_id,omitempty"`
	Trace        string   `json:"trace_id,omitempty"`
	Count        uint64   `json:"count,omitempty"`
	Actor        string   `json:"actor,omitempty"`
	Act          string   `json:"act,omitempty"`
	Resource     string   `json:"resource,omitempty"`
	Hash         string   `json:"hash"`
}

// ParseRecord reads one line, with or without its end. It does not check the hash.
func ParseRecord(text []byte) (r Record, err error) {
	if len(text) > maxLine {
		return r, errors.New("not an audit record: the line is too long")
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("not an audit record: %w", err)
	}
	return r, nil
}

// cutEnd is what text writes after a text that it cuts.
var cutEnd = regexp.MustCompile(`… and [0-9]+ bytes$`)

// Altered says why the record no longer has the request that was decided: a field of it is "masked", was
// "cut" or "not UTF-8", or there may have been more "roles" than are kept. It is "" if the record has it,
// and may be wrong the other way: a name that ends like a cut one is taken for one.
func (r *Record) Altered() string {
	for _, s := range append([]string{r.Tenant, r.Plan, r.Principal, r.Service, r.Method, r.Host, r.Path}, r.Roles...) {
		switch {
		case strings.Contains(s, maskStart):
			return "masked"
		case cutEnd.MatchString(s):
			return "cut"
		case strings.ContainsRune(s, utf8.RuneError):
			return "not UTF-8"
		}
	}
	if len(r.Roles) >= maxRoles {
		return "roles"
	}
	return ""
}

// Filter says which records are looked for. Empty fields match everything.
type Filter struct {
	Tenant, Principal, Decision, Reason, Rule string
	Since, Until                              int64 // Unix µs: Since <= time < Until
	Denied                                    bool  // only what was refused
}

func (f *Filter) match(r *Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(f.Tenant, r.Tenant) && is(f.Principal, r.Principal) && is(f.Decision, r.Decision) &&
		(is(f.Reason, r.Reason) || f.Reason == r.ShadowReason) && (is(f.Rule, r.Rule) || f.Rule == r.ShadowRule) &&
		(f.Since == 0 || r.Time >= f.Since) && (f.Until == 0 || r.Time < f.Until) &&
		(!f.Denied || r.Allowed != nil && !*r.Allowed)
}

// Search calls found with each record of a log's folder that matches, oldest first, and its
// line; neither may be kept. Records of the log's own, such as checkpoints, never match. It proves nothing: Verify
// does. It keeps one line in memory.
func Search(folder fs.FS, f Filter, found func(r *Record, text []byte) error) error {
	files, err := segments(folder)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return errors.New("no audit log here: no " + segmentName(1) + " nor later")
	}
	for _, s := range files {
		if err := searchSegment(folder, s, &f, found); err != nil {
			return err
		}
	}
	return nil
}

func searchSegment(folder fs.FS, s segmentFile, f *Filter, found func(r *Record, text []byte) error) error {
	file, err := folder.Open(s.name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // it is only read
	reader := bufio.NewReaderSize(file, maxLine)
	for number := 1; ; number++ {
		text, err := reader.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil // an unfinished line is being written
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", s.name, number, err)
		}
		l, why := parseLine(text[:len(text)-1])
		if why != "" {
			return fmt.Errorf("%s:%d: %s", s.name, number, why)
		}
		if own(l.kind) || f.Since > 0 && l.time < f.Since || f.Until > 0 && l.time >= f.Until {
			continue
		}
		r, err := ParseRecord(text)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", s.name, number, err)
		}
		if !f.match(&r) {
			continue
		}
		if err := found(&r, text[:len(text)-1]); err != nil {
			return err
		}
	}
}

// own reports whether a record is the log's own, about itself.
func own(kind []byte) bool {
	switch string(kind) {
	case "segment", "resume", "checkpoint", "key", "removed", "clock":
		return true
	}
	return false
}

// Newest is the newest signed checkpoint of a log's folder, as text to keep elsewhere and as what it says. Its
// signature is not checked.
func Newest(folder fs.FS) ([]byte, Checkpoint, error) {
	text, err := fs.ReadFile(folder, checkpointFile)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	c, err := parseCheckpoint(text)
	if err != nil {
		return nil, c, fmt.Errorf("%s %w", checkpointFile, err)
	}
	return text, c, nil
}
