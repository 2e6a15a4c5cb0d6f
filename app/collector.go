package app

import (
	"crypto/tls"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/voicecore-ai/sluice/telemetry"
)

// encryptedCollector is before the address of a collector that is spoken to by TLS.
const encryptedCollector = "https://"

// checkCollector opens no file and dials nobody.
func (c Config) checkCollector(wrong func(string, ...any)) {
	if c.AuditOTLP && (c.OTLPEndpoint == "" || c.Audit == "off") {
		wrong("audit-otlp: needs otlp-endpoint, and audit on")
	}
	address, encrypted := strings.CutPrefix(c.OTLPEndpoint, encryptedCollector)
	switch {
	case c.OTLPEndpoint == "":
		if c.OTLPCA != "" || c.OTLPPlainText {
			wrong("otlp-endpoint: empty, so otlp-ca and otlp-plaintext would do nothing; set it, or leave them out")
		}
	case !isAddress(address):
		wrong("otlp-endpoint %s: want host:port with a port from 0 to 65535, like 127.0.0.1:4317, and for TLS https:// before it", c.OTLPEndpoint)
	case encrypted && c.OTLPPlainText:
		wrong("otlp-plaintext: otlp-endpoint says https; leave one of them out")
	case !encrypted && c.OTLPCA != "":
		wrong("otlp-ca: does nothing while otlp-endpoint is plain text; write %s%s, or leave it out", encryptedCollector, address)
	case !encrypted && !c.OTLPPlainText && !loopback(address):
		wrong("otlp-endpoint %s: plain text to another machine: who is on the way reads which tenant does what; write %s%s, or say otlp-plaintext if the way is encrypted by something else",
			address, encryptedCollector, address)
	}
}

// collector is where spans go, and copies of the audit log.
func (c Config) collector() (telemetry.Endpoint, error) {
	address, encrypted := strings.CutPrefix(c.OTLPEndpoint, encryptedCollector)
	if !encrypted {
		return telemetry.Endpoint{Address: address, Credentials: insecure.NewCredentials()}, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.OTLPCA != "" {
		var err error
		if conf.RootCAs, err = authorities("otlp-ca", c.OTLPCA, "the collector's"); err != nil {
			return telemetry.Endpoint{}, err
		}
	}
	return telemetry.Endpoint{Address: address, Credentials: credentials.NewTLS(conf)}, nil
}
