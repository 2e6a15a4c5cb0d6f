package bundle

import (
	"archive/tar"
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

// Bundle is one that is whole.
type Bundle struct {
	Manifest
	Sum string // SHA-256 of the whole file, in hex

	files map[string][]byte
}

// Open reads a bundle and compares it with what it says of itself. What is wrong with its files is Problems, all
// of them at once. If sum is not empty, the whole file must have it, which is asked before anything in it is believed.
func Open(r io.Reader, sum string) (*Bundle, error) {
	whole := sha256.New()
	read := io.TeeReader(io.LimitReader(r, bound), whole)
	files, err := unpack(read)
	if _, rest := io.Copy(io.Discard, read); rest != nil { // what comes after the archive counts, too
		return nil, rest
	}
	b := &Bundle{Sum: hex.EncodeToString(whole.Sum(nil)), files: files}
	if sum != "" && !strings.EqualFold(sum, b.Sum) {
		return nil, fmt.Errorf("it is another file: its SHA-256 is %s, not %s", b.Sum, sum)
	}
	if err != nil {
		return nil, fmt.Errorf("it is no bundle, or damaged: %w", err)
	}
	if err := json.Unmarshal(files[manifestFile], &b.Manifest); err != nil {
		return nil, fmt.Errorf("it is no bundle: its %s: %w", manifestFile, err)
	}
	if b.Format != format {
		return nil, fmt.Errorf("it has format %d, and this sluice knows format %d; use the sluice that made it (%s)", b.Format, format, b.Sluice)
	}
	if p := b.problems(files); len(p) > 0 {
		return nil, p
	}
	return b, nil
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
		case h.Typeflag == tar.TypeDir: // of one that somebody packed again; folders are made by what is in them
			continue
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
