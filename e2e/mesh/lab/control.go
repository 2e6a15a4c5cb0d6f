package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// Where Services get their addresses. The balancer's are those for documentation: nobody's.
var (
	serviceRange  = netip.MustParsePrefix("10.96.0.0/16")
	balancerRange = netip.MustParsePrefix("192.0.2.0/24")
)

var apiServer = "https://" + net.JoinHostPort(box.Node.String(), "6443")

// controllers are those of kube-controller-manager that a mesh and its installer meet.
var controllers = []string{
	"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller", "cronjob-controller", "horizontal-pod-autoscaler-controller",
	"endpoints-controller", "endpointslice-controller", "serviceaccount-controller", "serviceaccount-token-controller",
	"root-ca-certificate-publisher-controller", "namespace-controller", "garbage-collector-controller", "disruption-controller",
	"ttl-after-finished-controller", "clusterrole-aggregation-controller", "resourcequota-controller",
}

// process is a part of the control plane.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// launch starts a tool with its output in a log.
func (c *Cluster) launch(tool string, args ...string) error {
	p := &process{name: tool, cmd: exec.Command(c.tools.path(tool), args...), log: filepath.Join(c.dir, tool+".log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", tool, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	c.processes = append(c.processes, p)
	return nil
}

// ended says so if a process did, with the end of its log.
func (p *process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended (%s):\n%s", p.name, p.cmd.ProcessState, tail(p.log, 15))
	default:
		return nil
	}
}

// startControlPlane starts etcd and the API server, then what needs it.
func (c *Cluster) startControlPlane(ctx context.Context, ca *authority) (err error) {
	if err := c.launchAPIServer(ca); err != nil {
		return err
	}
	if c.kubeconfig, err = c.writeKubeconfig(ca, "admin", "system:masters"); err != nil {
		return err
	}
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return err
	}
	// Tests poll; the client's own patience is for crowded clusters.
	c.rest.QPS, c.rest.Burst = -1, -1
	c.rest.WarningHandler = rest.NoWarnings{}
	if c.client, err = kubernetes.NewForConfig(c.rest); err != nil {
		return err
	}
	if err := c.awaitAPIServer(ctx); err != nil {
		return err
	}
	manager, err := c.writeKubeconfig(ca, "system:kube-controller-manager")
	if err != nil {
		return err
	}
	err = c.launch("kube-controller-manager", "--kubeconfig="+manager, "--controllers="+strings.Join(controllers, ","),
		"--leader-elect=false", "--use-service-account-credentials=true", "--service-account-private-key-file="+ca.file("service-accounts.key"), "--root-ca-file="+ca.file("ca.crt"),
		"--bind-address=127.0.0.1")
	if err != nil {
		return err
	}
	proxy, err := c.writeKubeconfig(ca, "system:kube-proxy")
	if err != nil {
		return err
	}
	// It may not touch the machine's connection table, which is not the place's.
	return c.launch("kube-proxy", "--kubeconfig="+proxy, "--proxy-mode=iptables", "--hostname-override=lab", "--cluster-cidr="+box.Pods.String(),
		"--iptables-min-sync-period=50ms", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249")
}

func (c *Cluster) launchAPIServer(ca *authority) error {
	const store = "http://127.0.0.1:2379"
	err := c.launch("etcd", "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+store, "--advertise-client-urls="+store, "--listen-peer-urls=http://127.0.0.1:2380")
	if err != nil {
		return err
	}
	serving, err := ca.server("apiserver", []net.IP{box.Node.AsSlice(), serviceRange.Addr().Next().AsSlice()},
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	toKubelet, err := ca.client("kubelet-client")
	if err != nil {
		return err
	}
	if _, err := ca.client("service-accounts"); err != nil { // for its key
		return err
	}
	return c.launch("kube-apiserver", "--etcd-servers="+store, "--bind-address="+box.Node.String(), "--advertise-address="+box.Node.String(), "--secure-port=6443",
		"--service-cluster-ip-range="+serviceRange.String(), "--tls-cert-file="+serving.cert, "--tls-private-key-file="+serving.key, "--client-ca-file="+ca.file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+ca.file("service-accounts.crt"), "--service-account-signing-key-file="+ca.file("service-accounts.key"),
		"--kubelet-client-certificate="+toKubelet.cert, "--kubelet-client-key="+toKubelet.key, "--kubelet-certificate-authority="+ca.file("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		// Webhooks go to endpoints, not through the service proxy.
		"--enable-aggregator-routing=true",
		"--authorization-mode=RBAC", "--allow-privileged=true", "--profiling=false")
}

// awaitAPIServer waits until it says that it is ready.
func (c *Cluster) awaitAPIServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		for _, p := range c.processes {
			if err := p.ended(); err != nil {
				return err
			}
		}
		err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver does not get ready: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// writeKubeconfig makes a user with a certificate.
func (c *Cluster) writeKubeconfig(ca *authority, user string, groups ...string) (string, error) {
	pair, err := ca.client(user, groups...)
	if err != nil {
		return "", err
	}
	// The contents, not the files' names: clients remember those, and the next cluster has others of the same name.
	var contents [3][]byte
	for i, file := range []string{ca.file("ca.crt"), pair.cert, pair.key} {
		if contents[i], err = os.ReadFile(file); err != nil {
			return "", err
		}
	}
	file := filepath.Join(c.dir, user+".kubeconfig")
	config := clientcmdapi.NewConfig()
	config.Clusters["lab"] = &clientcmdapi.Cluster{Server: apiServer, CertificateAuthorityData: contents[0]}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: contents[1], ClientKeyData: contents[2]}
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: user}
	config.CurrentContext = "lab"
	return file, clientcmd.WriteToFile(*config, file)
}

// tail is a log's last lines.
func tail(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
