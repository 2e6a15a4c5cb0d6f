package authz

// The errors of paths and hosts, by which tests know that the right one was found.
var (
	ErrPathForm     = errPathForm
	ErrPathLong     = errPathLong
	ErrPathByte     = errPathByte
	ErrPathEmpty    = errPathEmpty
	ErrPathRelative = errPathRelative
	ErrPathEdge     = errPathEdge
	ErrPathParams   = errPathParams
	ErrPathEscape   = errPathEscape
	ErrPathEncoded  = errPathEncoded
	ErrPathUTF8     = errPathUTF8
	ErrHost         = errHost
)
