package redisstore

import (
	"encoding/binary"

	"github.com/redis/go-redis/v9"
)

// On one server requests that meet share a call of the function, of so many at most, since Redis does nothing else
// meanwhile: for 0.1 to 0.3 ms. On a cluster each has one of its own, whose keys lie on one slot.
const (
	maxTogether = 32 // requests
	maxCells    = MaxCharges
)

// group is what a call of a function carries.
type group struct {
	calls []*call
	cmd   *redis.StringCmd
}

// groups are batch, in its order.
func (s *Store) groups(batch []*call) []group {
	groups := make([]group, 0, 1+len(batch)/maxTogether)
	first, cells := 0, 0
	for i, c := range batch {
		if i > first && (s.cluster || i-first == maxTogether || cells+len(c.keys) > maxCells || c.now != batch[first].now) {
			groups = append(groups, group{calls: batch[first:i]})
			first, cells = i, 0
		}
		cells += len(c.keys)
	}
	return append(groups, group{calls: batch[first:]})
}

// arguments are those of FCALL.
func (s *Store) arguments(calls []*call) []any {
	if s.cluster {
		return s.single(calls[0])
	}
	return s.together(calls)
}

// single is as frame.lua says.
func (s *Store) single(c *call) []any {
	args := append(make([]any, 0, 7+len(c.keys)), "FCALL", functionName, len(c.keys))
	if c.mode != look {
		args[2] = 1 + len(c.keys)
		args = append(args, c.keys[0][:len(s.o.Counters)+tagLen]+string(c.id[:]))
	}
	for k := range c.keys {
		args = append(args, &c.keys[k])
	}
	text := appendUint([]byte{c.mode, s.o.keep()}, c.now, timeLen)
	args = append(args, string(append(text, c.charges...)))
	if c.mode == force {
		args = append(args, string(appendUint(nil, c.at, timeLen)))
	}
	if c.frees {
		args = append(args, s.channel())
	}
	return args
}

const (
	timeLen       = 7
	nobodyKnows   = 255 // what together.lua calls NONE
	operationSets = "!" // behind the prefix of cells, which go on with a brace
)

// together is as together.lua says.
func (s *Store) together(calls []*call) []any {
	cells, size, periods, frees := 0, 3+timeLen, byte(nobodyKnows), false
	for _, c := range calls {
		cells += len(c.keys)
		size += 16 + 4 + len(c.charges) + timeLen
		frees = frees || c.frees
		switch {
		case c.mode == force:
			periods = s.o.keep()
		case c.mode == careful && periods == nobodyKnows:
			periods = 1
		}
	}
	args := append(make([]any, 0, 6+cells), "FCALL", togetherName, 1+cells, s.o.Counters+operationSets)
	text := append(make([]byte, 0, size), s.o.keep(), periods)
	text = append(appendUint(text, calls[0].now, timeLen), byte(len(calls)))
	for _, c := range calls {
		text = append(text, c.id[:]...)
		for k := range c.keys {
			args = append(args, &c.keys[k])
		}
	}
	for _, c := range calls {
		length := len(c.charges)
		if c.mode == force {
			length += timeLen
		}
		text = append(binary.BigEndian.AppendUint16(text, uint16(length)), c.mode, byte(len(c.keys))) //nolint:gosec // at most MaxCharges of 36 bytes
		text = append(text, c.charges...)
		if c.mode == force {
			text = appendUint(text, c.at, timeLen)
		}
	}
	args = append(args, text)
	if frees {
		args = append(args, s.channel())
	}
	return args
}

// answers are those to the calls of a group, in their order.
type answers struct {
	single bool
	now    int64
	text   string
	err    error
}

func (s *Store) answers(cmd *redis.StringCmd) answers {
	a := answers{single: s.cluster}
	a.text, a.err = cmd.Result()
	switch {
	case a.err != nil || a.single:
	case len(a.text) < timeLen:
		a.err = errReply
	default:
		a.now, a.text = readUint(a.text[:timeLen]), a.text[timeLen:]
	}
	return a
}

// next is the answer to c, whose turn it is.
func (a *answers) next(c *call) (reply, error) {
	switch {
	case a.err != nil:
		return reply{}, a.err
	case a.single && len(a.text) <= timeLen, a.text == "":
		return reply{}, errReply
	case a.single:
		return reply{status: a.text[0], now: readUint(a.text[1 : 1+timeLen]), cells: a.text[1+timeLen:]}, nil
	}
	status, parts, end := a.text[0], len(c.keys), 1
	if status == failed {
		parts = 1
	}
	for range parts {
		if len(a.text) < end+2 {
			a.err = errReply
			return reply{}, a.err
		}
		end += 2 + int(a.text[end])<<8 + int(a.text[end+1])
	}
	if len(a.text) < end {
		a.err = errReply
		return reply{}, a.err
	}
	part := a.text[1:end]
	a.text = a.text[end:]
	if status == failed {
		return reply{}, failure(part[2:])
	}
	return reply{status: status, now: a.now, cells: part}, nil
}

// failure is an error in one request of several.
type failure string

func (f failure) Error() string { return string(f) }

// RedisError implements redis.Error.
func (failure) RedisError() {}
