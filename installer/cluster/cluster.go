// Package cluster lays rendered components down on a Kubernetes cluster and
// takes them up again. Call Connect, then Compare, Install, Rollback, Status or
// Uninstall.
//
// Objects are written by server-side apply under one field manager and never by
// force: a field that somebody else set is a conflict, and the caller says whose
// fields may be taken over. What was laid down is recorded in an inventory, a
// Secret beside istiod that carries the labels of an ApplySet, before the first
// object is touched; so an interrupted installation is seen, resumed by running it
// again, or removed. Nothing is deleted that does not carry the inventory's label.
//
// It does not decide what a mesh consists of (package render) nor whether what it
// laid down acts (package check). Comparing costs two requests an object, and
// writing one more for each that differs.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Manager is the field manager of everything that is applied.
const Manager = "sluice"

// What went wrong, for callers that answer each differently; test with errors.Is.
var (
	// ErrConflict: an object or a field belongs to somebody else.
	ErrConflict = errors.New("conflict")
	// ErrNotReady: something was applied and did not become ready in time.
	ErrNotReady = errors.New("not ready")
	// ErrRefused: what was asked for would do harm, and was not done.
	ErrRefused = errors.New("refused")
	// ErrNotInstalled: there is no inventory.
	ErrNotInstalled = errors.New("not installed")
)

// Target says which cluster, as kubectl does.
type Target struct {
	Kubeconfig string // path; empty: $KUBECONFIG, ~/.kube/config, or the Pod's own account
	Context    string // empty: the current one
	// RequestTimeout bounds each request. 0 is a minute, after which an API server gives up by itself.
	RequestTimeout time.Duration
	// Version of the caller is kept in the inventory.
	Version string
}

// Cluster is a connection to one cluster.
type Cluster struct {
	// Host is the API server's address, and Server its version.
	Host, Server string

	client  client.Client
	config  *rest.Config
	version string
	holder  string
	now     func() time.Time
	// Of loops: how often readiness is asked for, and how long a lease lasts.
	poll, lease time.Duration
}

// Connect reads the configuration and asks the API server for its version.
func Connect(ctx context.Context, t Target) (*Cluster, error) {
	config, err := restConfig(t)
	if err != nil {
		return nil, err
	}
	config.Timeout = t.RequestTimeout
	if config.Timeout == 0 {
		config.Timeout = time.Minute
	}
	config.UserAgent = "sluice/" + t.Version
	// The API server shares itself out fairly; a second throttle here would only be slow.
	config.QPS = -1
	// A warning of the API server on every apply is noise in the progress.
	config.WarningHandler = rest.NoWarnings{}
	// These libraries log on standard error what is returned as an error too, or complain that nobody told them not to.
	klog.SetLogger(logr.Discard())
	log.SetLogger(logr.Discard())
	c := &Cluster{Host: config.Host, config: config, version: t.Version, holder: holder(), now: time.Now, poll: time.Second, lease: 30 * time.Second}
	v, err := serverVersion(ctx, config)
	if err != nil {
		return nil, c.explain(err)
	}
	c.Server = v.GitVersion
	plain, err := client.New(config, client.Options{})
	if err != nil {
		return nil, c.explain(err)
	}
	// Strict: a misspelt field is an error, not silently dropped.
	c.client = client.WithFieldValidation(plain, metav1.FieldValidationStrict)
	return c, nil
}

func serverVersion(ctx context.Context, config *rest.Config) (*version.Info, error) {
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	raw, err := d.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	return parseVersion(raw)
}

// Contexts are the names of the kubeconfig's contexts, in order; none if it can't be read.
func (t Target) Contexts() []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = t.Kubeconfig
	raw, err := rules.Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(raw.Contexts))
}

func restConfig(t Target) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = t.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: t.Context})
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if _, ok := raw.Contexts[t.Context]; t.Context != "" && !ok {
		return nil, fmt.Errorf("the kubeconfig has no context %q; it has: %s", t.Context, strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", "))
	}
	config, err := loader.ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster: there is no kubeconfig; name one with --kubeconfig or in $KUBECONFIG")
	}
	if err != nil {
		return nil, fmt.Errorf("the kubeconfig doesn't say how to reach a cluster: %w", err)
	}
	return config, nil
}

// holder names this process to others who want the same mesh.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", host, os.Getpid())
}

// explain turns what the connection or the API server said into a sentence with
// a remedy. Errors that are clear already pass unchanged.
func (c *Cluster) explain(err error) error {
	var reach *net.OpError
	var address *url.Error
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server at %s doesn't accept these credentials; log in again, or choose another --context: %w", c.Host, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("this account is not allowed to do that; have the missing permission granted, or choose another --context: %w", err)
	case errors.As(err, &reach):
		return fmt.Errorf("the API server at %s can't be reached; is the cluster up, and the --context the right one? %w", c.Host, err)
	case errors.As(err, &address):
		return fmt.Errorf("no answer from the API server at %s; is the --context the right one? %w", c.Host, err)
	}
	return err
}

// passing says whether an error may pass by itself: an API server, an admission
// webhook or a new kind that is not yet there.
func passing(err error) bool {
	if apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || meta.IsNoMatchError(err) {
		return true
	}
	return unanswered(err)
}

func unanswered(err error) bool {
	return apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook")
}

// whyNot is a passing error in a line: a webhook's would tell its address, certificate and more.
func whyNot(err error) string {
	if unanswered(err) {
		return "an admission webhook doesn't answer"
	}
	return firstLine(err.Error())
}
