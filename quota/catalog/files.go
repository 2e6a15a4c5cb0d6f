package catalog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/voicecore-ai/sluice/quota"
)

// Bounds of a folder, so that a wrong path (/, a home) is an error, not a hang.
const (
	maxFile  = 4 << 20
	maxTotal = 64 << 20
	maxFiles = 10_000
	maxDepth = 8
)

// file is one YAML file.
type file struct {
	path  string // relative to the folder, with slashes
	data  []byte
	first [listCount]int // where its entries begin in the merged lists

	parsed sync.Once // line numbers are wanted only when something is wrong
	root   *yaml.Node
	lists  [listCount]*yaml.Node
}

// fileSet is a folder as it was read.
type fileSet struct {
	files    []*file
	all      quota.Catalogue
	view     View                      // the same, sorted
	at       [listCount]map[string]int // the entry of each name
	problems found
	sum      [sha256.Size]byte // of all paths and contents
	dirs     []string          // real paths of the folders that were read
}

// found is what is wrong with files before they are compiled.
type found struct {
	list   quota.Problems
	broken bool // a file could not be read at all, so much else would seem to be missing
}

// and joins what was found with what the compiler says, without what follows
// from it; nil if there is nothing.
func (f found) and(err error) error {
	if len(f.list) == 0 {
		return err
	}
	all := f.list
	var compiled quota.Problems
	if errors.As(err, &compiled) {
		known := make(map[string]bool, len(all))
		for _, p := range all {
			known[p.Path] = true
		}
		for _, p := range compiled {
			if !known[p.Path] {
				all = append(all, p)
			}
		}
	}
	return all
}

// readDir reads every YAML file below dir. What is wrong inside the files is
// in the result; an error means that the folder itself could not be read.
func readDir(dir string) (*fileSet, error) {
	s := &fileSet{}
	if dir == "" {
		return s, nil
	}
	r := &reader{set: s, root: dir, seen: map[string]bool{}}
	if err := r.dir("", 0); err != nil {
		return nil, fmt.Errorf("catalog folder: %w", err)
	}
	sum := sha256.New()
	for _, f := range s.files {
		content := sha256.Sum256(f.data)
		_, _ = fmt.Fprintf(sum, "%q %x\n", f.path, content)
	}
	sum.Sum(s.sum[:0])
	return s, nil
}

// decode reads the files' entries.
func (s *fileSet) decode() {
	for _, f := range s.files {
		for i, l := range lists {
			f.first[i] = l.count(&s.all)
		}
		c := s.problems.decode(f)
		for _, l := range lists {
			l.add(&s.all, &c)
		}
	}
	for i, l := range lists {
		s.at[i] = make(map[string]int, l.count(&s.all))
		for j := range l.count(&s.all) {
			s.at[i][l.id(&s.all, j)] = j
		}
		l.sorted(s, i)
	}
}

// reader walks a folder.
type reader struct {
	set   *fileSet
	root  string
	total int
	seen  map[string]bool // real paths of folders, against links in a circle
}

// dir reads a folder, names in order. Links are followed, because Kubernetes
// mounts files, and folders, as links into a hidden folder.
func (r *reader) dir(rel string, depth int) error {
	path := filepath.Join(r.root, rel)
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d folders deep; point to the catalogue's own folder", path, maxDepth)
	}
	realPath, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if r.seen[realPath] {
		return nil
	}
	r.seen[realPath] = true
	r.set.dirs = append(r.set.dirs, realPath)
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if hidden(e.Name()) {
			continue
		}
		here := filepath.Join(rel, e.Name())
		if e.Type().IsRegular() && !isYAML(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(r.root, here))
		switch {
		case err != nil:
			return err
		case info.IsDir():
			err = r.dir(here, depth+1)
		case info.Mode().IsRegular() && isYAML(e.Name()):
			err = r.file(here)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) file(rel string) error {
	path := filepath.Join(r.root, rel)
	h, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	before, err := h.Stat()
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(h, maxFile+1))
	if err != nil {
		return err
	}
	after, err := h.Stat()
	if err != nil {
		return err
	}
	f := &file{path: filepath.ToSlash(rel), data: data}
	if len(data) > maxFile {
		r.set.problems.broke(f, 0, fmt.Sprintf("is larger than %d MiB", maxFile>>20), "split it into several files")
		f.data = nil
	} else if before.Size() != after.Size() || !before.ModTime().Equal(after.ModTime()) || int64(len(data)) != after.Size() {
		return fmt.Errorf("%s: changes while it is read; write another file and rename it into place", path)
	}
	r.set.files = append(r.set.files, f)
	r.total += len(data)
	switch {
	case len(r.set.files) > maxFiles:
		return fmt.Errorf("%s: more than %d files; point to the catalogue's own folder", r.root, maxFiles)
	case r.total > maxTotal:
		return fmt.Errorf("%s: more than %d MiB of files; point to the catalogue's own folder", r.root, maxTotal>>20)
	}
	return nil
}

// hidden reports whether a name is not for us: hidden files and folders, and
// what editors leave beside a file that they write.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".tmp") ||
		strings.HasSuffix(name, ".swp") || len(name) > 1 && name[0] == '#' && name[len(name)-1] == '#'
}

func isYAML(name string) bool {
	return !hidden(name) && (strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml"))
}

// at is the file and a line of it; line 0 is the whole file.
func (f *file) at(line int) string {
	name := f.path
	if q := strconv.Quote(name); q != `"`+name+`"` {
		name = q
	}
	if line == 0 {
		return name
	}
	return name + ":" + strconv.Itoa(line)
}

// line finds the line of a place of this file; the nearest value that is there
// stands for one that is missing.
func (f *file) line(p quota.Place) int {
	f.parsed.Do(func() {
		if f.root, _ = parse(f.data); f.root != nil {
			for i, l := range lists {
				f.lists[i] = child(f.root, l.name())
			}
		}
	})
	n := f.root
	if n == nil {
		return 0
	}
	step := func(next *yaml.Node) bool {
		if next == nil {
			return false
		}
		n = next
		return true
	}
	i := listAt(p.List)
	if i < 0 || !step(f.lists[i]) || !step(item(n, p.Index)) {
		return n.Line
	}
	if p.Limit >= 0 && (!step(child(n, "limits")) || !step(item(n, p.Limit))) {
		return n.Line
	}
	for key := range strings.SplitSeq(p.Field, ".") {
		if !step(child(n, key)) {
			return n.Line
		}
	}
	if p.Item >= 0 {
		step(item(n, p.Item))
	}
	return n.Line
}

// child is the value under a key; nil if there is none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n = follow(n); n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

func item(n *yaml.Node, i int) *yaml.Node {
	if n = follow(n); n.Kind == yaml.SequenceNode && i < len(n.Content) {
		return n.Content[i]
	}
	return nil
}

// follow is the node that an alias stands for.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// parse reads the one document of a file, without following aliases; nil for an empty one.
func parse(data []byte) (root *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, fmt.Errorf("yaml: %v", p)
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		return nil, err
	}
	var more yaml.Node
	switch err := d.Decode(&more); {
	case err == nil:
		return nil, errDocuments
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

var errDocuments = errors.New("yaml: holds more than one document")
