// Package bundle carries a mesh to where there is no network: one file with the charts,
// the values, what is rendered from them and the list of images, each with its digest.
// Call Create, carry the file over, then Open, and Mesh for what is in it.
//
// The images themselves are not in it: tools for that exist, and take the list. The digests show
// damage, not forgery: whoever could change a file could change its digest. To know that it is the one that was made,
// compare the digest of the whole.
//
// The same mesh and the same program give the same bytes.
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
	"path"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/voicecore-ai/sluice/deploy/chart"
	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

// format is the layout of a bundle; another one is refused.
const format = 1

// The files that every bundle has.
const (
	manifestFile = "bundle.json"
	sumsFile     = "SHA256SUMS"
	valuesFile   = "values.yaml"
	meshFile     = "mesh.yaml"
	imagesFile   = "images.txt"
	istioFolder  = "istio"  // for --charts
	sluiceFolder = "sluice" // Sluice's own chart
)

// bound is more than a bundle has, and keeps a hostile one from filling the memory.
const bound = 200_000_000

// Manifest is what a bundle says of itself.
type Manifest struct {
	Format  int      `json:"format"`
	Sluice  string   `json:"sluice"` // version of the program that made it
	Istio   string   `json:"istio"`
	Profile string   `json:"profile"`
	Images  []string `json:"images"`
	Files   []File   `json:"files"`
}

// File is one of a bundle's, but for the manifest and the sums.
type File struct {
	Name   string `json:"name"`
	Size   int    `json:"size"`
	SHA256 string `json:"sha256"`
}

// Create writes the bundle of a mesh and returns what it says, and the digest of the whole.
func Create(w io.Writer, m *cluster.Mesh, version string) (*Manifest, string, error) {
	files, err := contents(m)
	if err != nil {
		return nil, "", err
	}
	out := &Manifest{Format: format, Sluice: version, Istio: m.Values.Istio.Version, Profile: m.Values.Profile, Images: Images(m)}
	var sums bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := digest(files[name])
		out.Files = append(out.Files, File{name, len(files[name]), sum})
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
	}
	manifest, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, "", err
	}
	files[manifestFile] = append(manifest, '\n')
	fmt.Fprintf(&sums, "%s  %s\n", digest(files[manifestFile]), manifestFile)
	files[sumsFile] = sums.Bytes()
	whole := sha256.New()
	if err := pack(io.MultiWriter(w, whole), files); err != nil {
		return nil, "", err
	}
	return out, hex.EncodeToString(whole.Sum(nil)), nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// contents are the files of a mesh.
func contents(m *cluster.Mesh) (map[string][]byte, error) {
	files := map[string][]byte{}
	charts, folders := render.Charts(m.Values)
	for _, folder := range folders {
		if err := addFolder(files, istioFolder, charts, folder); err != nil {
			return nil, fmt.Errorf("charts of Istio: %w", err)
		}
	}
	if err := addFolder(files, sluiceFolder, chart.FS, "."); err != nil {
		return nil, fmt.Errorf("chart of Sluice: %w", err)
	}
	values, err := values(m.Values)
	if err != nil {
		return nil, err
	}
	mesh, err := render.YAML(m.Components)
	if err != nil {
		return nil, err
	}
	files[valuesFile], files[meshFile] = values, mesh
	files[imagesFile] = []byte(strings.Join(Images(m), "\n") + "\n")
	return files, nil
}

// values are complete, so that they need no profile of another version; the charts lie beside them.
func values(v *profile.Values) ([]byte, error) {
	whole := *v
	whole.Profile, whole.Istio.Charts = "", ""
	text, err := yaml.Marshal(&whole)
	if err != nil {
		return nil, fmt.Errorf("writing the values: %w", err)
	}
	return append([]byte("# All values of the mesh, started from the profile "+v.Profile+".\n"), text...), nil
}

func addFolder(files map[string][]byte, to string, from fs.FS, folder string) error {
	return fs.WalkDir(from, folder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, name)
		files[path.Join(to, name)] = text
		return err
	})
}

// pack writes files in the order of their names, with nothing that differs from one time to another.
func pack(w io.Writer, files map[string][]byte) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	out := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := out.Write(files[name]); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zip.Close())
}

// Images are all that a mesh runs: those of its objects, and the proxy that is injected.
func Images(m *cluster.Mesh) []string {
	found := inOrder(m)
	slices.Sort(found)
	return slices.Compact(found)
}

// Pairs are the images of a mesh beside those of the same mesh from other registries, each pair once.
func Pairs(from, to *cluster.Mesh) (pairs [][2]string) {
	sources := inOrder(from)
	for i, image := range inOrder(to) {
		if pair := [2]string{sources[i], image}; !slices.Contains(pairs, pair) {
			pairs = append(pairs, pair)
		}
	}
	return pairs
}

// inOrder are the images in the order of the objects.
func inOrder(m *cluster.Mesh) []string {
	found := []string{m.Values.Images.Hub + "/proxyv2:" + m.Values.Istio.Version}
	for _, r := range m.Components {
		for _, u := range r.Objects {
			imagesOf(u.Object, &found)
		}
	}
	return found
}

// imagesOf looks in every list of containers. "auto" is the injector's to fill in.
func imagesOf(v any, found *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for _, list := range []string{"containers", "initContainers"} {
			containers, _, _ := unstructured.NestedSlice(v, list)
			for _, c := range containers {
				if c, ok := c.(map[string]any); ok {
					if image, _ := c["image"].(string); image != "" && image != "auto" {
						*found = append(*found, image)
					}
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			imagesOf(v[key], found)
		}
	case []any:
		for _, inner := range v {
			imagesOf(inner, found)
		}
	}
}
