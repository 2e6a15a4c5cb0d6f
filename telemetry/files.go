package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/voicecore-ai/sluice/quota/catalog"
)

// Files exports which snapshot decides, and for each setting whose files are read again when they
// change, whether what they hold now was refused.
func Files(c *catalog.Catalog, refused map[string]func() bool) prometheus.Collector {
	return exported{[]*prometheus.Desc{revisionDesc, loadedDesc, wrongDesc, confirmedDesc, besideDesc}, func(m metrics) {
		revision, loaded, _ := c.Status()
		m.gauge(revisionDesc, float64(revision))
		m.gauge(loadedDesc, float64(loaded.UnixMilli())/1e3)
		if confirmed, shared, refused := c.Shared(); shared {
			m.gauge(confirmedDesc, float64(confirmed.UnixMilli())/1e3)
			m.flag(besideDesc, refused != nil)
		}
		for setting, refused := range refused {
			m.flag(wrongDesc, refused(), setting)
		}
	}}
}

var (
	revisionDesc  = prometheus.NewDesc("sluice_catalog_revision", "The revision of the catalogue that decides requests.", nil, nil)
	loadedDesc    = prometheus.NewDesc("sluice_catalog_loaded_timestamp_seconds", "When the files of the catalogue were last loaded without a problem.", nil, nil)
	confirmedDesc = prometheus.NewDesc("sluice_catalog_confirmed_timestamp_seconds",
		"When Redis last said that nothing is newer than the shared entries that are known here.", nil, nil)
	besideDesc = prometheus.NewDesc("sluice_catalog_refused",
		"1 while the shared entries are not valid beside this replica's files, and the last good catalogue decides. The log says why.", nil, nil)
	wrongDesc = prometheus.NewDesc("sluice_files_refused",
		"1 while the files of a setting can't be used as they are now, and what was last good stays in force. The log says why.", []string{"setting"}, nil)
)

// Certificate exports when the certificate that is shown to callers expires.
func Certificate(expires func() time.Time) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "sluice_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate of --tls-cert that is in use expires.",
	}, func() float64 { return float64(expires().Unix()) })
}
