package exit_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/voicecore-ai/sluice/exit"
)

func TestCode(t *testing.T) {
	cause := errors.New("the disk is gone")
	for _, c := range []struct {
		name string
		err  error
		code int
		has  bool
	}{
		{"no error is 0", nil, 0, false},
		{"an error is 1", cause, 1, false},
		{"unless it has another", exit.With(3, cause), 3, true},
		{"that is found within others", fmt.Errorf("doctor: %w", exit.With(3, cause)), 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, has := exit.Code(c.err), exit.Has(c.err); code != c.code || has != c.has {
				t.Errorf("status %d, %v; want %d, %v", code, has, c.code, c.has)
			}
		})
	}
	if err := exit.With(3, cause); !errors.Is(err, cause) || err.Error() != cause.Error() {
		t.Errorf("%v hides its cause", err)
	}
}
