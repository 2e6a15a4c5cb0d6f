package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// The verdicts of a suite. Unclear is one that says that the machine was too busy to tell.
const (
	green   = "green"
	red     = "red"
	unclear = "unclear"
)

// Result is what a suite wrote.
type Result struct {
	Suite    string   `json:"suite"`
	Store    string   `json:"store"`
	Wiring   string   `json:"wiring"`
	Result   string   `json:"result"`
	Rows     []row    `json:"rows"`
	Problems []string `json:"problems"`
	Doubts   []string `json:"doubts"`
	Notes    []string `json:"notes"`

	defect string
}

// row is one tenant's counts beside what was expected.
type row struct {
	Name       string `json:"name"`
	Algorithm  string `json:"algorithm"`
	Sent       int    `json:"sent"`
	Allowed    int    `json:"allowed"`
	Limited    int    `json:"limited"`
	Unexpected int    `json:"unexpected"`
	Low        int    `json:"low"`
	High       int    `json:"high"`
	Ideal      int    `json:"ideal"`
}

// script runs a suite's script. Its exit status is not an error.
func (o *Options) script(ctx context.Context, j job, p *path) (text string, code int, err error) {
	script := filepath.Join(o.Root, "loadtest", "suites", j.suite.name+".js")
	protos, err := filepath.Abs(o.protos())
	if err != nil {
		return "", 0, err
	}
	args := append(append([]string{}, o.Runner[1:]...), script)
	cmd := exec.CommandContext(ctx, o.Runner[0], args...) //nolint:gosec // the caller names the runner
	cmd.Env = append(os.Environ(),
		"BASE_URL="+p.url, "CONTROL_URL="+p.control.URL, "LIMITS="+p.limits(), "OUT="+p.dir, "PROTOS="+protos, "SCALE="+strconv.FormatFloat(o.Scale, 'g', -1, 64))
	cmd.Env = append(cmd.Env, "K6_AUTO_EXTENSION_RESOLUTION=false") // a k6 could fetch another k6
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		code, err = failed.ExitCode(), nil
	}
	return string(out), code, err
}

// thresholdsFailed is k6's exit status where a threshold was crossed.
const thresholdsFailed = 99

// readResult reads what a suite wrote, and holds it against how the script ended.
func readResult(dir string, j job, code int) (r Result, err error) {
	text, err := os.ReadFile(filepath.Join(dir, j.suite.name+".json")) //nolint:gosec // a folder of ours
	if err != nil {
		return r, fmt.Errorf("the script ended with status %d and wrote no verdict: %w", code, err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("verdict of %s: %w", j.suite.name, err)
	}
	if j.defect != nil {
		r.defect = j.defect.name
	}
	switch {
	case code != 0 && code != thresholdsFailed:
		return r, fmt.Errorf("the script ended with status %d", code)
	case code == thresholdsFailed && r.Result == green:
		r.Result = red
		r.Problems = append(r.Problems, "a threshold was crossed that the verdict does not know")
	}
	return r, nil
}
