package cluster

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/voicecore-ai/sluice/installer/profile"
	"github.com/voicecore-ai/sluice/installer/render"
)

const (
	// historyLength is how many revisions can be gone back to.
	historyLength = 3
	// historyBytes bounds all of them; the API server refuses Secrets above 1 MiB.
	historyBytes   = 900_000
	stateKey       = "state"
	revisionPrefix = "revision-"
)

// state is the readable part of the inventory.
type state struct {
	Revision int    `json:"revision"` // of the last installation that was finished; 0 before that
	Profile  string `json:"profile,omitempty"`
	Istio    string `json:"istio,omitempty"`
	// IstioRevision is that of the control plane; empty is the default one.
	IstioRevision string        `json:"istioRevision,omitempty"`
	Stage         profile.Stage `json:"stage,omitempty"`
	By            string        `json:"by,omitempty"` // version of sluice
	Action        string        `json:"action,omitempty"`
	At            time.Time     `json:"at,omitzero"`
	Digest        string        `json:"digest,omitempty"` // of what was rendered
	// Objects is all that was, or is being, laid down.
	Objects []ref `json:"objects"`
	// Pending is what was begun and not finished.
	Pending *pending `json:"pending,omitempty"`
	// Upgrade is a move to another control plane that was begun.
	Upgrade *upgrading `json:"upgrade,omitempty"`
}

// pending is an action that was begun.
type pending struct {
	Action    string    `json:"action"`
	Component string    `json:"component,omitempty"` // at which it is
	Since     time.Time `json:"since"`
	Holder    string    `json:"holder"`
	Digest    string    `json:"digest,omitempty"`
}

// inventory is what is known about the installation.
type inventory struct {
	state
	secret *corev1.Secret // nil: none yet
}

// revision is one installation, complete enough to be laid down again.
type revision struct {
	Action     string            `json:"action"`
	At         time.Time         `json:"at"`
	By         string            `json:"by"`
	Values     *profile.Values   `json:"values"`
	Components []render.Rendered `json:"components"`
}

func (c *Cluster) readInventory(ctx context.Context, namespace string) (*inventory, error) {
	s := &corev1.Secret{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: inventoryName}, s)
	if apierrors.IsNotFound(err) {
		return &inventory{}, nil
	}
	if err != nil {
		return nil, c.explain(fmt.Errorf("reading the inventory: %w", err))
	}
	if s.Labels[labelID] != applySetID(namespace) {
		return nil, fmt.Errorf("%w: Secret %s/%s is not an inventory of sluice (no label %s); rename or delete it", ErrConflict, namespace, inventoryName, labelID)
	}
	inv := &inventory{secret: s}
	if err := json.Unmarshal(s.Data[stateKey], &inv.state); err != nil {
		return nil, fmt.Errorf("the inventory, Secret %s/%s, can't be read: %w", namespace, inventoryName, err)
	}
	return inv, nil
}

// write saves the inventory, unless another process wrote it since it was read.
func (c *Cluster) write(ctx context.Context, namespace string, inv *inventory) error {
	text, err := json.Marshal(&inv.state)
	if err != nil {
		return err
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: inventoryName}}
	if inv.secret != nil {
		s = inv.secret.DeepCopy()
	}
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	s.Data[stateKey] = text
	trim(s)
	s.Labels = map[string]string{labelID: applySetID(namespace), "app.kubernetes.io/managed-by": Manager}
	kinds, spaces := map[string]bool{}, map[string]bool{}
	for _, r := range inv.Objects {
		kinds[schema.GroupKind{Group: r.Group, Kind: r.Kind}.String()] = true
		if r.Namespace != "" && r.Namespace != namespace {
			spaces[r.Namespace] = true
		}
	}
	s.Annotations = map[string]string{annotationTooling: Manager + "/" + strings.ReplaceAll(c.version, "/", "-"), annotationKinds: list(kinds), annotationSpaces: list(spaces)}
	if inv.secret == nil {
		err = c.client.Create(ctx, s, client.FieldOwner(Manager))
	} else {
		// The resource version that was read is in it: a second writer is refused.
		err = c.client.Update(ctx, s, client.FieldOwner(Manager))
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%w: another sluice wrote the inventory meanwhile; see 'sluice mesh status', then try again", ErrConflict)
	}
	if err != nil {
		return c.explain(fmt.Errorf("writing the inventory: %w", err))
	}
	inv.secret = s
	return nil
}

func list(set map[string]bool) string {
	var out []string
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// trim drops the oldest revisions until the rest is few and small enough.
func trim(s *corev1.Secret) {
	numbers := revisions(s)
	size := 0
	for _, data := range s.Data {
		size += len(data)
	}
	for i, n := range numbers {
		if len(numbers)-i <= historyLength && size <= historyBytes {
			return
		}
		key := revisionPrefix + strconv.Itoa(n)
		size -= len(s.Data[key])
		delete(s.Data, key)
	}
}

// revisions are those that are kept, oldest first.
func revisions(s *corev1.Secret) []int {
	var out []int
	if s == nil {
		return nil
	}
	for key := range s.Data {
		if n, err := strconv.Atoi(strings.TrimPrefix(key, revisionPrefix)); err == nil && strings.HasPrefix(key, revisionPrefix) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func pack(r *revision) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(z).Encode(r); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (inv *inventory) revision(n int) (*revision, error) {
	if inv.secret == nil {
		return nil, ErrNotInstalled
	}
	data, ok := inv.secret.Data[revisionPrefix+strconv.Itoa(n)]
	if !ok {
		return nil, fmt.Errorf("revision %d is not kept; there are: %s", n, strings.Trim(fmt.Sprint(revisions(inv.secret)), "[]"))
	}
	r, err := unpack(data)
	if err != nil {
		return nil, fmt.Errorf("revision %d in the inventory is damaged: %w", n, err)
	}
	return r, nil
}

func unpack(data []byte) (*revision, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	r := &revision{}
	return r, json.Unmarshal(text, r)
}

// digest is of values and objects: two equal ones are the same installation.
func digest(m *Mesh) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(m); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// joined is the old list of objects with the new ones in it: until an
// installation is finished, both may be on the cluster.
func joined(old, now []ref) []ref {
	out := slices.Clone(now)
	for _, r := range old {
		i := slices.IndexFunc(out, func(n ref) bool { return n.key() == r.key() })
		if i < 0 {
			out = append(out, r)
		}
	}
	return out
}
