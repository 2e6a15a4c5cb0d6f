package tenant

import (
	"strconv"
	"strings"
)

// Quote shows in a message what somebody wrote: on one line, and not all of it if it is long.
func Quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "…"
}
