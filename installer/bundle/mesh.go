package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// Mesh renders what is in the bundle, from its values and its charts, with files and assignments of over on top of the values.
//
// What the bundle has rendered must come out again, or the error is cluster.ErrRefused: another sluice than the one
// that made it would lay down what nobody has seen.
func (b *Bundle) Mesh(over profile.Options) (m *cluster.Mesh, err error) {
	dir, err := os.MkdirTemp("", "sluice-bundle-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.extract(dir); err != nil {
		return nil, fmt.Errorf("unpacking the bundle: %w", err)
	}
	values := []string{filepath.Join(dir, valuesFile)}
	m, err = b.render(dir, profile.Options{Files: values})
	if err != nil {
		return nil, err
	}
	again, err := render.YAML(m.Components)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b.files[meshFile]) {
		return nil, fmt.Errorf("%w: this sluice renders another mesh from the bundle than the one that is in it; use the sluice that made it, %s", cluster.ErrRefused, b.Sluice)
	}
	if len(over.Files)+len(over.Sets) == 0 {
		return m, nil
	}
	return b.render(dir, profile.Options{Files: append(values, over.Files...), Sets: over.Sets})
}

func (b *Bundle) render(dir string, o profile.Options) (*cluster.Mesh, error) {
	v, err := profile.Load(o)
	if err != nil {
		return nil, err
	}
	v.Istio.Charts = filepath.Join(dir, istioFolder)
	components, err := render.All(v)
	// The folder goes, and the profile is what the values of the bundle started from.
	v.Istio.Charts, v.Profile = "", b.Profile
	return &cluster.Mesh{Values: v, Components: components}, err
}

// extract writes the files into an empty folder, and nowhere else.
func (b *Bundle) extract(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for name, text := range b.files {
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if err := root.WriteFile(name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
