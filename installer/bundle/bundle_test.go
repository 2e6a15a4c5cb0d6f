package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

func mesh(t *testing.T, o profile.Options) *cluster.Mesh { t.Helper(); return meshOf(t, o, "") }

func meshOf(t *testing.T, o profile.Options, charts string) *cluster.Mesh {
	t.Helper()
	v, err := profile.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	v.Istio.Charts = charts
	components, err := render.All(v)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster.Mesh{Values: v, Components: components}
}

func create(t *testing.T, m *cluster.Mesh) ([]byte, *Manifest, string) {
	t.Helper()
	var b bytes.Buffer
	manifest, sum, err := Create(&b, m, "v-test")
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), manifest, sum
}

func TestABundle(t *testing.T) {
	m := mesh(t, profile.Options{Profile: "voicecore", Sets: []string{"images.registry=registry.internal:5000", "images.hub=registry.internal:5000/istio"}})
	text, manifest, sum := create(t, m)

	t.Run("the same mesh gives the same bytes", func(t *testing.T) {
		again, _, _ := create(t, mesh(t, profile.Options{Profile: "voicecore", Sets: []string{"images.registry=registry.internal:5000", "images.hub=registry.internal:5000/istio"}}))
		if !bytes.Equal(text, again) {
			t.Error("the bytes differ")
		}
	})
	t.Run("it verifies, with the digest that was told when it was made", func(t *testing.T) {
		read, err := Open(bytes.NewReader(text), sum)
		if err != nil {
			t.Fatal(err)
		}
		if read.Sum != sum || len(read.Files) != len(manifest.Files) || read.Sluice != "v-test" {
			t.Errorf("digest %s, want %s; %d files, want %d", read.Sum, sum, len(read.Files), len(manifest.Files))
		}
	})
	t.Run("it lists every image, from the registry of the values", func(t *testing.T) {
		for _, want := range []string{"istio/pilot:" + m.Values.Istio.Version, "istio/proxyv2:" + m.Values.Istio.Version, "kiali/kiali:", "jaegertracing/jaeger:", "prom/prometheus:", "grafana/grafana:", "/sluiced"} {
			if !slices.ContainsFunc(manifest.Images, func(i string) bool { return strings.Contains(i, want) }) {
				t.Errorf("no image %s among %q", want, manifest.Images)
			}
		}
		for _, i := range manifest.Images {
			if !strings.HasPrefix(i, "registry.internal:5000/") {
				t.Errorf("image %s would be pulled from elsewhere", i)
			}
		}
		files := unpacked(t, text)
		// What is written anywhere as an image, in templates of the injector as well, is on the list.
		for line := range strings.Lines(string(files[meshFile])) {
			if _, image, ok := strings.Cut(strings.TrimSpace(line), "image: "); ok && strings.Contains(image, "registry.internal") && !strings.Contains(image, "{{") {
				if image = strings.Trim(image, `"`); !slices.Contains(manifest.Images, image) {
					t.Errorf("%s is in the mesh, and not on the list", image)
				}
			}
		}
	})
	t.Run("each image is told with the place that it is copied from", func(t *testing.T) {
		pairs := Pairs(mesh(t, profile.Options{Profile: "voicecore"}), m)
		if len(pairs) != len(manifest.Images) {
			t.Errorf("%d pairs, want %d", len(pairs), len(manifest.Images))
		}
		for _, p := range pairs {
			if path.Base(p[0]) != path.Base(p[1]) || !strings.HasPrefix(p[1], "registry.internal:5000/") || strings.HasPrefix(p[0], "registry.internal") {
				t.Errorf("%q", p)
			}
		}
	})
	t.Run("it is laid down as it is, by the program that made it", func(t *testing.T) {
		b, err := Open(bytes.NewReader(text), sum)
		if err != nil {
			t.Fatal(err)
		}
		there, err := b.Mesh(profile.Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := render.YAML(there.Components)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, unpacked(t, text)[meshFile]) || there.Values.Profile != "voicecore" || there.Values.Istio.Charts != "" {
			t.Errorf("another mesh: profile %q, charts %q", there.Values.Profile, there.Values.Istio.Charts)
		}
		soft, err := b.Mesh(profile.Options{Sets: []string{"mesh.stage=soft"}})
		if err != nil || soft.Values.Mesh.Stage != profile.Soft {
			t.Errorf("values over those of the bundle: %v", err)
		}
		if _, err := b.Mesh(profile.Options{Sets: []string{"mesh.stage=hard"}}); err == nil {
			t.Error("a value that can't be is taken")
		}
	})
	t.Run("another program that would lay something else down refuses it", func(t *testing.T) {
		files := unpacked(t, text)
		files[meshFile] = bytes.Replace(files[meshFile], []byte("minReplicas: 2"), []byte("minReplicas: 3"), 1)
		b := &Bundle{Manifest: *manifest, files: files}
		if _, err := b.Mesh(profile.Options{}); !errors.Is(err, cluster.ErrRefused) || !strings.Contains(err.Error(), "use the sluice that made it, v-test") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("what is in it gives the same mesh, on a machine that has only it", func(t *testing.T) {
		dir := t.TempDir()
		files := unpacked(t, text)
		for name, text := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		there := meshOf(t, profile.Options{Files: []string{filepath.Join(dir, valuesFile)}}, filepath.Join(dir, istioFolder))
		got, err := render.YAML(there.Components)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, files[meshFile]) {
			t.Errorf("rendered from the bundle it is another mesh: %d bytes, want %d", len(got), len(files[meshFile]))
		}
		if files[sluiceFolder+"/Chart.yaml"] == nil {
			t.Error("Sluice's chart is not in it")
		}
	})
}

func unpacked(t *testing.T, text []byte) map[string][]byte {
	t.Helper()
	files, err := unpack(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestADamagedBundle(t *testing.T) {
	text, _, _ := create(t, mesh(t, profile.Options{Profile: "minimal"}))
	repack := func(t *testing.T, change func(files map[string][]byte)) []byte {
		t.Helper()
		files := unpacked(t, text)
		change(files)
		var b bytes.Buffer
		if err := pack(&b, files); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for _, c := range []struct {
		name   string
		change func(files map[string][]byte)
		says   []string
	}{
		{"a changed file and a missing one are told at once", func(f map[string][]byte) {
			f[meshFile] = bytes.Replace(f[meshFile], []byte("kind"), []byte("kinb"), 1)
			delete(f, valuesFile)
		}, []string{"mesh.yaml: its SHA-256 is", "values.yaml: it is missing"}},
		{"a longer file", func(f map[string][]byte) { f[meshFile] = append(f[meshFile], 'x') }, []string{"mesh.yaml: it has"}},
		{"a file more", func(f map[string][]byte) { f["istio/charts/base/templates/more.yaml"] = []byte("x") }, []string{"more.yaml: nobody lists it"}},
		{"another list of sums", func(f map[string][]byte) { f[sumsFile] = f[sumsFile][1:] }, []string{"SHA256SUMS: it says something else"}},
		{"another list of images in the manifest", func(f map[string][]byte) {
			f[manifestFile] = bytes.Replace(f[manifestFile], []byte("/proxyv2:"), []byte("/proxyv3:"), 1)
		}, []string{"images.txt: it lists other images", "SHA256SUMS: it says something else"}},
		{"a later format", func(f map[string][]byte) {
			f[manifestFile] = bytes.Replace(f[manifestFile], []byte(`"format": 1`), []byte(`"format": 2`), 1)
		}, []string{"it has format 2", "use the sluice that made it (v-test)"}},
		{"no manifest", func(f map[string][]byte) { delete(f, manifestFile) }, []string{"it is no bundle"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(bytes.NewReader(repack(t, c.change)), "")
			if err == nil {
				t.Fatal("it verifies")
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant %q", err, want)
				}
			}
		})
	}
	t.Run("each byte counts", func(t *testing.T) {
		good, err := Open(bytes.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		// In thirty places; a damaged archive is found by gzip, tar or a digest.
		for at := 0; at < len(text); at += max(1, len(text)/30) {
			damaged := bytes.Clone(text)
			damaged[at] ^= 0x10
			if b, err := Open(bytes.NewReader(damaged), ""); err == nil && b.Sum == good.Sum {
				t.Errorf("a change of byte %d of %d is not found, and the digest is the same", at, len(text))
			}
			if _, err := Open(bytes.NewReader(damaged), good.Sum); err == nil || !strings.Contains(err.Error(), "it is another file") {
				t.Errorf("a change of byte %d of %d: %v", at, len(text), err)
			}
		}
	})
	t.Run("half of one", func(t *testing.T) {
		if _, err := Open(bytes.NewReader(text[:len(text)/2]), ""); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("got %v, want that it is damaged", err)
		}
	})
}

func TestAHostileBundle(t *testing.T) {
	for name, h := range map[string]*tar.Header{
		"a name that leads out":   {Typeflag: tar.TypeReg, Name: "../../etc/passwd"},
		"an absolute name":        {Typeflag: tar.TypeReg, Name: "/etc/passwd"},
		"a name of Windows":       {Typeflag: tar.TypeReg, Name: `..\x`},
		"a link":                  {Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/etc"},
		"a size that fills disks": {Typeflag: tar.TypeReg, Name: "x", Size: bound + 1},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			zip := gzip.NewWriter(&b)
			out := tar.NewWriter(zip)
			if err := out.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			_ = out.Flush()
			if err := zip.Close(); err != nil {
				t.Fatal(err)
			}
			var p Problems
			if _, err := Open(&b, ""); err == nil || errors.As(err, &p) || !strings.HasPrefix(err.Error(), "it is no bundle") {
				t.Errorf("got %v, want that it is no bundle", err)
			}
		})
	}
}
