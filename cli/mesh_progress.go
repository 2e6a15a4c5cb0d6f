package cli

import (
	"io"
	"os"
	"sync"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/voicecore-ai/sluice/installer/cluster"
)

// meshProgress shows what is done: one line that changes on a terminal, a line for each step elsewhere.
type meshProgress struct {
	mu    sync.Mutex
	out   io.Writer
	width int // of the terminal; 0 is none
}

// newMeshProgress writes to standard error, so that standard output is only the result.
func newMeshProgress(c *cobra.Command) *meshProgress {
	p := &meshProgress{out: c.ErrOrStderr()}
	if f, ok := p.out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			p.width = width
		}
	}
	return p
}

func (p *meshProgress) event(e cluster.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := printable(e.Component + ": " + e.Text)
	switch {
	case p.width == 0:
		line += "\n"
	case e.Done:
		line = "\r\x1b[K✓ " + line + "\n"
	default:
		line = "\r\x1b[K  " + text.Trim(line, max(p.width-3, 1))
	}
	// Who can't be shown the progress is still shown the result.
	_, _ = io.WriteString(p.out, line)
}

// end leaves the line that changes.
func (p *meshProgress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.width > 0 {
		_, _ = io.WriteString(p.out, "\r\x1b[K")
	}
}
