package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// Home is where a pod's volumes and logs are; logs stay when the pod is gone.
func Home(namespace, name string, uid types.UID) string {
	return filepath.Join(box.Dir, "pods", namespace+"_"+name+"_"+string(uid))
}

func (p *pod) home(parts ...string) string {
	return filepath.Join(append([]string{Home(p.namespace, p.name, p.uid)}, parts...)...)
}

// fillVolumes makes every volume's content, or brings it up to date.
func (p *pod) fillVolumes(ctx context.Context) error {
	api := p.seen()
	var problems []error
	for i := range api.Spec.Volumes {
		v := &api.Spec.Volumes[i]
		if err := p.fill(ctx, v); err != nil {
			problems = append(problems, fmt.Errorf("volume %q: %w", v.Name, err))
		}
	}
	return errors.Join(problems...)
}

func (p *pod) fill(ctx context.Context, v *corev1.Volume) error {
	dir := p.home("volumes", v.Name)
	if v.EmptyDir != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return os.Chmod(dir, 0o777)
	}
	files := map[string]string{}
	var err error
	switch {
	case v.ConfigMap != nil:
		err = p.configFiles(files, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
	case v.Secret != nil:
		err = p.secretFiles(files, v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
	case v.DownwardAPI != nil:
		err = p.downwardFiles(files, v.DownwardAPI.Items)
	case v.Projected != nil:
		for i := range v.Projected.Sources {
			if err = p.project(ctx, files, v.Name, &v.Projected.Sources[i]); err != nil {
				break
			}
		}
	default:
		return errors.New("this kubelet knows no volume of that kind")
	}
	if err != nil {
		return err
	}
	return swap(dir, files)
}

func (p *pod) project(ctx context.Context, files map[string]string, volume string, s *corev1.VolumeProjection) error {
	switch {
	case s.ConfigMap != nil:
		return p.configFiles(files, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		return p.secretFiles(files, s.Secret.Name, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return p.downwardFiles(files, s.DownwardAPI.Items)
	case s.ServiceAccountToken != nil:
		token, err := p.token(ctx, volume, s.ServiceAccountToken)
		files[s.ServiceAccountToken.Path] = token
		return err
	}
	return errors.New("this kubelet knows no projection of that kind")
}

// token is asked for once a pod: tests end before tokens do.
func (p *pod) token(ctx context.Context, volume string, s *corev1.ServiceAccountTokenProjection) (string, error) {
	key := volume + "/" + s.Path
	if token, ok := p.tokens[key]; ok {
		return token, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.name, UID: p.uid},
	}}
	if s.Audience != "" {
		request.Spec.Audiences = []string{s.Audience}
	}
	made, err := p.k.Client.CoreV1().ServiceAccounts(p.namespace).CreateToken(ctx, p.seen().Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	p.tokens[key] = made.Status.Token
	return made.Status.Token, nil
}

func (p *pod) configFiles(files map[string]string, name string, items []corev1.KeyToPath, optional *bool) error {
	config, err := p.k.configs.ConfigMaps(p.namespace).Get(name)
	if absent(err, optional) {
		return nil
	} else if err != nil {
		return err
	}
	data := maps.Clone(config.Data)
	for key, value := range config.BinaryData {
		if data == nil {
			data = map[string]string{}
		}
		data[key] = string(value)
	}
	return choose(files, data, items, optional)
}

func (p *pod) secretFiles(files map[string]string, name string, items []corev1.KeyToPath, optional *bool) error {
	secret, err := p.k.secrets.Secrets(p.namespace).Get(name)
	if absent(err, optional) {
		return nil
	} else if err != nil {
		return err
	}
	data := map[string]string{}
	for key, value := range secret.Data {
		data[key] = string(value)
	}
	return choose(files, data, items, optional)
}

// choose takes all keys, or those listed.
func choose(files, data map[string]string, items []corev1.KeyToPath, optional *bool) error {
	if len(items) == 0 {
		maps.Copy(files, data)
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok && (optional == nil || !*optional) {
			return fmt.Errorf("there is no key %q", item.Key)
		}
		if ok {
			files[item.Path] = value
		}
	}
	return nil
}

func (p *pod) downwardFiles(files map[string]string, items []corev1.DownwardAPIVolumeFile) error {
	api := p.seen()
	for _, item := range items {
		if item.FieldRef != nil {
			value, err := p.field(item.FieldRef.FieldPath)
			if err != nil {
				return err
			}
			files[item.Path] = value
			continue
		}
		for _, c := range append(api.Spec.InitContainers, api.Spec.Containers...) {
			if c.Name != item.ResourceFieldRef.ContainerName {
				continue
			}
			value, err := resourceField(&c, item.ResourceFieldRef)
			if err != nil {
				return err
			}
			files[item.Path] = value
		}
	}
	return nil
}

// swap replaces a folder's files at once, as a kubelet does: names are links into ..data, which is a link to a folder of one version.
func swap(dir string, files map[string]string) error {
	const data = "..data"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	old, _ := os.Readlink(filepath.Join(dir, data))
	if old != "" && same(filepath.Join(dir, old), files) {
		return nil
	}
	version, err := os.MkdirTemp(dir, "..v")
	if err != nil {
		return err
	}
	if err := os.Chmod(version, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		at := filepath.Join(version, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
			return err
		}
	}
	next := filepath.Join(dir, "..next")
	if err := os.Symlink(filepath.Base(version), next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, data)); err != nil {
		return err
	}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if err := os.Symlink(filepath.Join(data, top), filepath.Join(dir, top)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := os.Stat(filepath.Join(dir, n.Name())); errors.Is(err, os.ErrNotExist) {
			if err := os.Remove(filepath.Join(dir, n.Name())); err != nil { // leads nowhere now
				return err
			}
		}
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(dir, old))
}

// same says whether a folder holds exactly these files.
func same(dir string, files map[string]string) bool {
	left := len(files)
	err := filepath.WalkDir(dir, func(at string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(at)
		if want, ok := files[name]; err != nil || !ok || want != string(content) {
			return errors.Join(err, errors.New("differs"))
		}
		left--
		return nil
	})
	return err == nil && left == 0
}

// mounts is what a container sees of the pod's volumes, of its image, and of what every pod has.
func (p *pod) mounts(c *container, e *environment) (mounts []box.Mount, err error) {
	for _, m := range c.spec.VolumeMounts {
		source := p.home("volumes", m.Name)
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = e.expand(m.SubPathExpr)
		}
		if sub != "" {
			source = filepath.Join(source, sub)
			if _, err := os.Stat(source); errors.Is(err, os.ErrNotExist) {
				if err := os.MkdirAll(source, 0o777); err != nil {
					return nil, err
				}
			}
			if source, err = filepath.EvalSymlinks(source); err != nil {
				return nil, err
			}
		}
		mounts = append(mounts, box.Mount{Source: source, Target: m.MountPath, ReadOnly: m.ReadOnly})
	}
	for at, file := range c.image.Files {
		mounts = append(mounts, box.Mount{Source: file, Target: at, ReadOnly: true})
	}
	return append(mounts,
		box.Mount{Source: p.home("hosts"), Target: "/etc/hosts"},
		box.Mount{Source: p.home("resolv.conf"), Target: "/etc/resolv.conf"},
	), nil
}

// writeNames makes the files by which a pod finds names.
func (p *pod) writeNames() error {
	if err := os.MkdirAll(p.home("logs"), 0o755); err != nil {
		return err
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", p.addr, p.name)
	if err := os.WriteFile(p.home("hosts"), []byte(hosts), 0o644); err != nil {
		return err
	}
	resolve := fmt.Sprintf("search %s.svc.cluster.local svc.cluster.local cluster.local\nnameserver %s\noptions ndots:5\n", p.namespace, p.k.Resolver)
	return os.WriteFile(p.home("resolv.conf"), []byte(resolve), 0o644)
}
