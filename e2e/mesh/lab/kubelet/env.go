package kubelet

import (
	"fmt"
	"maps"
	"regexp"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// environment is a container's, in the order in which later names may use earlier ones.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) pairs() (pairs []string) {
	for _, name := range e.names {
		pairs = append(pairs, name+"="+e.values[name])
	}
	return pairs
}

var reference = regexp.MustCompile(`\$\$|\$\([^()$]+\)`)

// expand replaces $(NAME) where NAME is known, and $$ by $.
func (e *environment) expand(s string) string {
	return reference.ReplaceAllStringFunc(s, func(found string) string {
		if found == "$$" {
			return "$"
		}
		if value, ok := e.values[found[2:len(found)-1]]; ok {
			return value
		}
		return found
	})
}

// env makes a container's environment.
func (p *pod) env(c *container) (*environment, error) {
	e := &environment{values: map[string]string{}}
	e.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	e.set("HOME", "/")
	e.set("HOSTNAME", p.name)
	api, err := p.k.Informers.Core().V1().Services().Lister().Services("default").Get("kubernetes")
	if err != nil {
		return nil, err
	}
	e.set("KUBERNETES_SERVICE_HOST", api.Spec.ClusterIP)
	e.set("KUBERNETES_SERVICE_PORT", fmt.Sprint(api.Spec.Ports[0].Port))
	for _, from := range c.spec.EnvFrom {
		if err := p.envFrom(e, from); err != nil {
			return nil, err
		}
	}
	for _, v := range c.spec.Env {
		value, ok := e.expand(v.Value), true
		if v.ValueFrom != nil {
			if value, ok, err = p.envValue(c, v.ValueFrom); err != nil {
				return nil, fmt.Errorf("environment variable %s: %w", v.Name, err)
			}
		}
		if ok {
			e.set(v.Name, value)
		}
	}
	for _, pair := range c.image.Env {
		name, value, _ := strings.Cut(pair, "=")
		e.set(name, value)
	}
	return e, nil
}

func (p *pod) envFrom(e *environment, from corev1.EnvFromSource) error {
	var data map[string]string
	switch {
	case from.ConfigMapRef != nil:
		config, err := p.k.configs.ConfigMaps(p.namespace).Get(from.ConfigMapRef.Name)
		if absent(err, from.ConfigMapRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		data = config.Data
	case from.SecretRef != nil:
		secret, err := p.k.secrets.Secrets(p.namespace).Get(from.SecretRef.Name)
		if absent(err, from.SecretRef.Optional) {
			return nil
		} else if err != nil {
			return err
		}
		data = map[string]string{}
		for name, value := range secret.Data {
			data[name] = string(value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		e.set(from.Prefix+name, data[name])
	}
	return nil
}

// envValue reads what a variable refers to; ok is false where it may be left out.
func (p *pod) envValue(c *container, from *corev1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = p.field(from.FieldRef.FieldPath)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err = resourceField(&c.spec, from.ResourceFieldRef)
		return value, err == nil, err
	case from.ConfigMapKeyRef != nil:
		config, err := p.k.configs.ConfigMaps(p.namespace).Get(from.ConfigMapKeyRef.Name)
		if err == nil {
			if value, ok = config.Data[from.ConfigMapKeyRef.Key]; ok {
				return value, true, nil
			}
			err = apierrors.NewNotFound(corev1.Resource("configmap key"), from.ConfigMapKeyRef.Key)
		}
		if absent(err, from.ConfigMapKeyRef.Optional) {
			return "", false, nil
		}
		return "", false, err
	case from.SecretKeyRef != nil:
		secret, err := p.k.secrets.Secrets(p.namespace).Get(from.SecretKeyRef.Name)
		if err == nil {
			if data, ok := secret.Data[from.SecretKeyRef.Key]; ok {
				return string(data), true, nil
			}
			err = apierrors.NewNotFound(corev1.Resource("secret key"), from.SecretKeyRef.Key)
		}
		if absent(err, from.SecretKeyRef.Optional) {
			return "", false, nil
		}
		return "", false, err
	}
	return "", false, fmt.Errorf("this kubelet knows no source like %v", from)
}

// absent says whether an object is missing and may be.
func absent(err error, optional *bool) bool {
	return optional != nil && *optional && apierrors.IsNotFound(err)
}

var keyed = regexp.MustCompile(`^metadata\.(labels|annotations)\['(.+)'\]$`)

// field is the downward API's.
func (p *pod) field(path string) (string, error) {
	api := p.seen()
	if m := keyed.FindStringSubmatch(path); m != nil {
		if m[1] == "labels" {
			return api.Labels[m[2]], nil
		}
		return api.Annotations[m[2]], nil
	}
	switch path {
	case "metadata.name":
		return api.Name, nil
	case "metadata.namespace":
		return api.Namespace, nil
	case "metadata.uid":
		return string(api.UID), nil
	case "metadata.labels":
		return lines(api.Labels), nil
	case "metadata.annotations":
		return lines(api.Annotations), nil
	case "spec.nodeName":
		return api.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return api.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return p.addr.String(), nil
	case "status.hostIP", "status.hostIPs":
		return box.Node.String(), nil
	}
	return "", fmt.Errorf("this kubelet knows no field %q", path)
}

func lines(m map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%q\n", name, m[name])
	}
	return b.String()
}

// resourceField is a request or limit in units of the divisor, rounded up. An absent limit is this machine's size, as on a node.
func resourceField(c *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}[kind]
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok {
		switch ref.Resource {
		case "limits.cpu":
			quantity = *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI)
		case "limits.memory":
			quantity = resource.MustParse("4Gi")
		case "requests.cpu", "requests.memory":
		default:
			return "", fmt.Errorf("this kubelet knows no resource %q", ref.Resource)
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	per := divisor.MilliValue()
	return fmt.Sprint((quantity.MilliValue() + per - 1) / per), nil
}
