package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Problems are all that is wrong with a bundle.
type Problems []string

func (p Problems) Error() string {
	return fmt.Sprintf("the bundle is not whole:\n  %s\nmake it again, or carry it over again", strings.Join(p, "\n  "))
}

// Verify reads a bundle and returns what it says, and the digest of the whole. What is
// wrong with its files is Problems, all of them at once.
func Verify(r io.Reader) (*Manifest, string, error) {
	whole := sha256.New()
	read := io.TeeReader(r, whole)
	files, err := unpack(read)
	if err != nil {
		return nil, "", fmt.Errorf("it is no bundle, or damaged: %w", err)
	}
	if _, err := io.Copy(io.Discard, read); err != nil { // what comes after the archive counts, too
		return nil, "", err
	}
	sum := hex.EncodeToString(whole.Sum(nil))
	m := &Manifest{}
	d := json.NewDecoder(bytes.NewReader(files[manifestFile]))
	if err := d.Decode(m); err != nil {
		return nil, sum, fmt.Errorf("it is no bundle: its %s: %w", manifestFile, err)
	}
	if m.Format != format {
		return nil, sum, fmt.Errorf("it has format %d, and this sluice knows format %d; use the sluice that made it (%s)", m.Format, format, m.Sluice)
	}
	if p := m.problems(files); len(p) > 0 {
		return m, sum, p
	}
	return m, sum, nil
}

func (m *Manifest) problems(files map[string][]byte) (p Problems) {
	var sums strings.Builder
	listed := map[string]bool{manifestFile: true, sumsFile: true}
	for _, f := range m.Files {
		text, ok := files[f.Name]
		listed[f.Name] = true
		fmt.Fprintf(&sums, "%s  %s\n", f.SHA256, f.Name)
		switch {
		case !ok:
			p = append(p, f.Name+": it is missing")
		case len(text) != f.Size:
			p = append(p, fmt.Sprintf("%s: it has %d bytes, and should have %d", f.Name, len(text), f.Size))
		case digest(text) != f.SHA256:
			p = append(p, fmt.Sprintf("%s: its SHA-256 is %.12s…, and should be %.12s…", f.Name, digest(text), f.SHA256))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !listed[name] {
			p = append(p, name+": nobody lists it")
		}
	}
	for _, name := range []string{valuesFile, meshFile, imagesFile} {
		if !listed[name] {
			p = append(p, name+": it is not listed")
		}
	}
	fmt.Fprintf(&sums, "%s  %s\n", digest(files[manifestFile]), manifestFile)
	if string(files[sumsFile]) != sums.String() {
		p = append(p, sumsFile+": it says something else than "+manifestFile)
	}
	if list := strings.Fields(string(files[imagesFile])); !slices.Equal(list, m.Images) {
		p = append(p, imagesFile+": it lists other images than "+manifestFile)
	}
	return p
}

// unpack reads an archive of plain files with plain names.
func unpack(r io.Reader) (map[string][]byte, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	size := int64(0)
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		size += h.Size
		_, twice := files[h.Name]
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil, fmt.Errorf("%q is no plain file", h.Name)
		case !fs.ValidPath(h.Name) || strings.Contains(h.Name, `\`):
			return nil, fmt.Errorf("the name %q leads out of the folder", h.Name)
		case twice:
			return nil, fmt.Errorf("%q is there twice", h.Name)
		case size > bound:
			return nil, fmt.Errorf("it is larger than %d bytes", bound)
		}
		if files[h.Name], err = io.ReadAll(in); err != nil {
			return nil, err
		}
	}
	_, err = io.Copy(io.Discard, io.LimitReader(zip, bound)) // checks the sum at its end
	return files, err
}
