// Package exit gives the error of a command the status that its process ends with. What a status means is for
// the command to document; main alone ends the process.
package exit

import "errors"

// Usage is the status for a command line that says something there is not (sysexits.h).
const Usage = 64

// coded is an error with a status of its own.
type coded struct {
	code int
	error
}

// Unwrap is the error without the status.
func (e *coded) Unwrap() error { return e.error }

// With is err with a status.
func With(code int, err error) error { return &coded{code, err} }

// Has reports whether err has a status already.
func Has(err error) bool {
	var e *coded
	return errors.As(err, &e)
}

// Code is the status for what a command returned: 0 for no error, and 1 unless With says another.
func Code(err error) int {
	var e *coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.code
	}
	return 1
}
