package check

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var certificateChecks = []Check{
	{Code: "SV251", Title: "no workload's certificate is near its end", Severity: Fail, run: workloadCertificates},
	{Code: "SV252", Title: "the root certificate outlives the workloads' certificates", Severity: Fail, run: rootCertificates},
	{Code: "SV253", Title: "the gateway's own certificate is not near its end", Severity: Fail, run: gatewayCertificate},
}

// Certificate is one that the mesh depends on.
type Certificate struct {
	Of     string    `json:"of"` // the object that has it
	Kind   string    `json:"kind"`
	ID     string    `json:"id,omitempty"` // a SPIFFE id, or names
	Serial string    `json:"serial,omitempty"`
	From   time.Time `json:"notBefore"`
	To     time.Time `json:"notAfter"`
	// RenewAt is when it is renewed by itself; zero where nothing renews it.
	RenewAt  time.Time `json:"renewAt,omitzero"`
	Left     string    `json:"left"`
	Severity Severity  `json:"severity,omitempty"` // empty: it has time
	Note     string    `json:"note,omitempty"`     // why there is nothing to say
}

// The kinds of certificates.
const (
	workload = "workload"
	root     = "root"
	edge     = "gateway"
	webhook  = "webhook"
)

// Certificates lists what is known of every certificate that the mesh depends on: those
// that proxies hold, their roots, the ingress gateway's own, and what the API
// server believes of istiod's webhooks. One that the caller may not read has a note instead.
func Certificates(ctx context.Context, m *Mesh) ([]Certificate, error) {
	all, err := m.held(ctx)
	if err != nil {
		return nil, err
	}
	gateway, err := m.gatewaySecret(ctx)
	if err != nil {
		return nil, err
	}
	hooks, err := m.bundles(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.Concat(all, gateway)
	for _, h := range hooks {
		for _, c := range h.certificates() {
			all = append(all, m.judge(Certificate{Of: h.object, Kind: webhook, ID: c.Subject.String(), Serial: serial(c), From: c.NotBefore, To: c.NotAfter}))
		}
	}
	return all, nil
}

// held are the certificates in proxies, each root once.
func (m *Mesh) held(ctx context.Context) ([]Certificate, error) {
	proxies, err := m.proxies(ctx)
	if err != nil {
		return nil, err
	}
	var out []Certificate
	roots := map[string]bool{}
	for _, p := range proxies {
		if p.err != nil {
			out = append(out, Certificate{Of: p.String(), Kind: workload, Severity: Warn, Note: p.err.Error()})
			continue
		}
		for _, c := range p.certs {
			if c.root {
				if !roots[c.serial] {
					roots[c.serial] = true
					out = append(out, m.judge(Certificate{Of: p.String(), Kind: root, Serial: c.serial, From: c.from, To: c.to}))
				}
				continue
			}
			kind := workload
			if !strings.HasPrefix(c.id, "spiffe://") {
				kind = edge // what a gateway serves with
			}
			out = append(out, m.judge(Certificate{Of: p.String(), Kind: kind, ID: c.id, Serial: c.serial, From: c.from, To: c.to}))
		}
	}
	return out, nil
}

// noticed is the time in which somebody should see that a certificate which is not the mesh's has to be renewed.
const noticed = 21 * 24 * time.Hour

// judge fills in what is left of a certificate, and whether that is enough. One
// that is renewed by itself has a problem when half of the time for it has passed without that.
func (m *Mesh) judge(c Certificate) Certificate {
	v := m.values.Mesh.Certificates
	left := c.To.Sub(m.now)
	c.Left = left.Round(time.Minute).String()
	life, early := c.To.Sub(c.From), v.Lifetime.Duration
	switch c.Kind {
	case workload:
		window := time.Duration(float64(life) * v.RenewAt)
		c.RenewAt = c.To.Add(-window)
		early = window / 2
	case edge:
		early = min(life/5, noticed)
	}
	switch {
	case left < v.Critical.Duration:
		c.Severity = Fail
	case left < early:
		c.Severity = Warn
	}
	return c
}

// findings are what is to say of the certificates of one kind.
func findings(all []Certificate, kind, says, fix string) (out []Finding) {
	for _, c := range all {
		if c.Kind != kind || c.Severity == "" || c.Note != "" {
			continue
		}
		out = append(out, Finding{
			Severity: c.Severity, Object: c.Of, Says: fmt.Sprintf("%s left of its %s certificate: %s", c.Left, kind, says),
			Evidence: fmt.Sprintf("%s, serial %s, not after %s", c.ID, c.Serial, c.To.UTC().Format(time.RFC3339)), Fix: fix,
		})
	}
	return out
}

func workloadCertificates(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.held(ctx)
	return findings(all, workload, "it was not renewed when it should have been, and the workload is cut off at its end",
		"see that istiod answers (SV203) and what the pod's istio-proxy logs; a restart of the pod asks again"), err
}

func rootCertificates(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.held(ctx)
	return findings(all, root, "istiod cuts the certificates that it signs to what is left of its own",
		"give istiod a new root beside the old one, in Secret cacerts"), err
}

func gatewayCertificate(ctx context.Context, m *Mesh) ([]Finding, error) {
	all, err := m.gatewaySecret(ctx)
	if err != nil {
		return nil, err
	}
	served, err := m.held(ctx)
	out := findings(slices.Concat(all, served), edge, "callers will refuse the gateway", "renew the Secret that it is in")
	for _, c := range all {
		if c.Note != "" {
			out = append(out, Finding{Severity: c.Severity, Object: c.Of, Says: c.Note, Fix: "allow 'get' of this one Secret, or look yourself"})
		}
	}
	return out, err
}

// gatewaySecret reads the one Secret that the ingress gateway serves with.
func (m *Mesh) gatewaySecret(ctx context.Context) ([]Certificate, error) {
	g := m.values.Istio.Ingress
	if !g.Enabled || g.TLSSecret == "" {
		return nil, nil
	}
	c := Certificate{Of: name2("Secret", m.values.Istio.Namespace, g.TLSSecret), Kind: edge}
	s := &corev1.Secret{}
	err := m.reads.client.Get(ctx, client.ObjectKey{Namespace: m.values.Istio.Namespace, Name: g.TLSSecret}, s)
	switch {
	case apierrors.IsForbidden(err):
		c.Severity, c.Note = Info, "not read: this account may not read it"
		return []Certificate{c}, nil
	case apierrors.IsNotFound(err):
		c.Severity, c.Note = Fail, "it is not there, so the gateway serves no TLS"
		return []Certificate{c}, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", c.Of, err)
	}
	chain := parsePEM(s.Data[corev1.TLSCertKey])
	if len(chain) == 0 {
		c.Severity, c.Note = Fail, "there is no certificate in its tls.crt"
		return []Certificate{c}, nil
	}
	c.ID, c.Serial, c.From, c.To = strings.Join(chain[0].DNSNames, " "), serial(chain[0]), chain[0].NotBefore, chain[0].NotAfter
	return []Certificate{m.judge(c)}, nil
}

// parsePEM reads certificates, and leaves out what is none.
func parsePEM(data []byte) (out []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
}

func serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }
