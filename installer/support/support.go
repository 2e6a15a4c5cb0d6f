// Package support packs what somebody needs who is to say why a mesh does not do
// what it should: objects, events, pods, logs and what the proxies run. Call Collect.
//
// Nothing secret is in it: the values of Secrets and of environment variables are left out, and
// every text is searched for tokens, keys and passwords, and for the values of the mesh's own Secrets. What only a
// reader could know to be secret (a customer's name in a path) is not recognized: read it before you pass it on.
//
// It reads, and changes nothing. It costs some requests for each object and a megabyte or so for each proxy.
package support

import (
	"archive/tar"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/cluster"
	"github.com/voicecore-ai/sluice/installer/forward"
)

// Options say what is collected.
type Options struct {
	Cluster *cluster.Cluster
	// Mesh is what is installed.
	Mesh *cluster.Mesh
	// Since is how far back logs and events go; 0 is an hour.
	Since time.Duration
	// Limit bounds the unpacked size in bytes; 0 is 100 MB. What is over it is left out, and said.
	Limit int64
	// Version of the caller, for the index.
	Version string
	// Progress hears what is read next; nil for nobody.
	Progress func(string)
}

// Index is what is in an archive; it is its first file, too.
type Index struct {
	At      time.Time `json:"at"`
	Version string    `json:"version"`
	Server  string    `json:"server"`
	Istio   string    `json:"istio"`
	Since   string    `json:"since"`
	// Files are named with their size.
	Files []File `json:"files"`
	// Redacted counts the places at which something secret was taken out.
	Redacted int `json:"redacted"`
	// Missing says what could not be read or had no room, and why.
	Missing []string `json:"missing,omitempty"`
}

// File is one of an archive's.
type File struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

// collector gathers texts until the limit.
type collector struct {
	Options
	client client.Client
	api    *rest.RESTClient
	dial   forward.Dial
	redactor
	index Index
	texts [][]byte
	size  int64
}

// Collect writes a gzipped tar archive of what it could read. A part that can't be
// read is named in the index; it is an error only if the archive can't be written.
func Collect(ctx context.Context, w io.Writer, o Options) (*Index, error) {
	o.Since, o.Limit = cmp.Or(o.Since, time.Hour), cmp.Or(o.Limit, 100_000_000)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	config := o.Cluster.REST()
	reader, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	core := rest.CopyConfig(config)
	core.GroupVersion, core.APIPath, core.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", scheme.Codecs.WithoutConversion()
	api, err := rest.RESTClientFor(core)
	if err != nil {
		return nil, err
	}
	c := &collector{Options: o, client: reader, api: api, dial: forward.Dialer(config)}
	c.index = Index{At: time.Now().UTC(), Version: o.Version, Server: o.Cluster.Server, Istio: o.Mesh.Values.Istio.Version, Since: o.Since.String()}
	// In this order, so that what is small and tells most is there when room runs out.
	for _, part := range []func(context.Context) error{c.state, c.objects, c.events, c.pods, c.logs, c.proxies} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	c.index.Redacted = c.count
	return &c.index, c.write(w)
}

// add keeps a text under a name, if there is room.
func (c *collector) add(name string, text []byte) {
	text = c.text(text)
	if c.size+int64(len(text)) > c.Limit {
		c.miss("%s: %d bytes more than there is room for", name, c.size+int64(len(text))-c.Limit)
		return
	}
	c.size += int64(len(text))
	c.index.Files = append(c.index.Files, File{name, len(text)})
	c.texts = append(c.texts, text)
}

func (c *collector) addJSON(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	c.add(name, text)
	return nil
}

// miss notes what is not there. Errors may tell secrets as well.
func (c *collector) miss(format string, args ...any) {
	c.index.Missing = append(c.index.Missing, string(c.text(fmt.Appendf(nil, format, args...))))
}

func (c *collector) write(w io.Writer) error {
	index, err := json.MarshalIndent(&c.index, "", "  ")
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(w)
	out := tar.NewWriter(zip)
	folder := "sluice-support-" + c.index.At.Format("20060102T150405Z") + "/"
	names, texts := slices.Insert(c.index.Files, 0, File{Name: "index.json"}), slices.Insert(c.texts, 0, index)
	for i, text := range texts {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: folder + names[i].Name, Mode: 0o600, Size: int64(len(text)), ModTime: c.index.At}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zip.Close())
}
