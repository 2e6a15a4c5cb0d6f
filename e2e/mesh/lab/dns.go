package lab

import (
	"net"
	"net/netip"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/core/v1"
	discovery "k8s.io/client-go/listers/discovery/v1"

	"github.com/voicecore-ai/sluice/e2e/mesh/lab/box"
)

// names is the cluster's DNS: its Services, and what a test calls the outside world.
type names struct {
	services listers.ServiceLister
	slices   discovery.EndpointSliceLister
	conn     net.PacketConn

	mu      sync.Mutex
	outside map[string]netip.Addr
}

func startNames(factory informers.SharedInformerFactory) (*names, error) {
	conn, err := net.ListenPacket("udp", netip.AddrPortFrom(box.Node, 53).String())
	if err != nil {
		return nil, err
	}
	n := &names{
		services: factory.Core().V1().Services().Lister(), slices: factory.Discovery().V1().EndpointSlices().Lister(),
		conn: conn, outside: map[string]netip.Addr{},
	}
	go n.serve()
	return n, nil
}

func (n *names) add(name string, addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.outside[name] = addr
}

// lookup finds a full name; known is false where there is none.
func (n *names) lookup(name string) (addrs []netip.Addr, known bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	n.mu.Lock()
	addr, ok := n.outside[name]
	n.mu.Unlock()
	if ok {
		return []netip.Addr{addr}, true
	}
	short, ok := strings.CutSuffix(name, ".svc.cluster.local")
	service, namespace, two := strings.Cut(short, ".")
	if !ok || !two {
		return nil, false
	}
	s, err := n.services.Services(namespace).Get(service)
	switch {
	case err != nil:
		return nil, false
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return n.lookup(s.Spec.ExternalName)
	case s.Spec.ClusterIP != corev1.ClusterIPNone:
		addr, err := netip.ParseAddr(s.Spec.ClusterIP)
		return []netip.Addr{addr}, err == nil
	}
	slices, err := n.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil {
		return nil, false
	}
	for _, slice := range slices {
		for _, e := range slice.Endpoints {
			if addr, err := netip.ParseAddr(e.Addresses[0]); err == nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs, true
}

// find tries a name as a pod of the namespace would: with the search path.
func (n *names) find(name, namespace string) []netip.Addr {
	for _, suffix := range []string{"." + namespace + ".svc.cluster.local", ".svc.cluster.local", ".cluster.local", ""} {
		if addrs, known := n.lookup(name + suffix); known {
			return addrs
		}
	}
	return nil
}

func (n *names) serve() {
	buffer := make([]byte, 4096)
	for {
		size, from, err := n.conn.ReadFrom(buffer)
		if err != nil {
			return // closed
		}
		if answer, err := n.answer(buffer[:size]); err == nil {
			_, _ = n.conn.WriteTo(answer, from)
		}
	}
}

func (n *names) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.RecursionAvailable = true, true, true
	m.Additionals = nil
	for _, q := range m.Questions {
		addrs, known := n.lookup(q.Name.String())
		if !known {
			m.RCode = dnsmessage.RCodeNameError
		}
		if q.Type != dnsmessage.TypeA {
			continue
		}
		for _, addr := range addrs {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			})
		}
	}
	return m.Pack()
}
