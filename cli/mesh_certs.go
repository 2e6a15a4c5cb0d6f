package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/exit"
	"github.com/voicecore-ai/sluice/installer/check"
)

func meshCertsCommand() *cobra.Command {
	var f meshFlags
	c := &cobra.Command{
		Use:   "certs",
		Short: "List the certificates that the mesh depends on, and what is left of them",
		Long: `Lists the certificate of each workload as its proxy holds it, their root, the ingress gateway's own (if this account may read
that one Secret) and what the API server believes of istiod's webhooks.

Workloads' certificates are renewed by themselves, at 'renewed'. One with less than half of that time left was
not: a warning. Below mesh.certificates.critical it is a failure, and the exit status 3.`,
		Example: `  sluice mesh certs
  sluice mesh certs -o json | jq -r 'sort_by(.notAfter)[0]'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			k, err := f.connect(c.Context())
			if err != nil {
				return err
			}
			m, err := f.installed(c.Context(), k)
			if err != nil {
				return err
			}
			opened, err := check.Open(k, check.Options{Mesh: m})
			if err != nil {
				return err
			}
			all, err := check.Certificates(c.Context(), opened)
			if err != nil {
				return err
			}
			if f.output == "table" {
				err = printCerts(c.OutOrStdout(), all)
			} else {
				err = encode(c.OutOrStdout(), all, f.output)
			}
			if err == nil && slices.ContainsFunc(all, func(c check.Certificate) bool { return c.Severity == check.Fail }) {
				err = exit.With(exitRefused, errors.New("a certificate is near its end, or is missing"))
			}
			return err
		},
	}
	f.outputs(c, "table", "json", "yaml")
	f.cluster(c)
	f.values(c)
	f.where(c)
	return c
}

func printCerts(w io.Writer, all []check.Certificate) error {
	t := meshTable("", "kind", "of", "id", "serial", "not after", "left", "renewed")
	for i := range all {
		c := &all[i]
		if c.Note != "" {
			t.AppendRow(table.Row{mark(w, c.Severity), c.Kind, c.Of, c.Note})
			continue
		}
		renewed := ""
		if !c.RenewAt.IsZero() {
			renewed = c.RenewAt.UTC().Format(time.RFC3339)
		}
		t.AppendRow(table.Row{mark(w, c.Severity), c.Kind, c.Of, c.ID, c.Serial, c.To.UTC().Format(time.RFC3339), c.Left, renewed})
	}
	_, err := fmt.Fprintln(w, printable(t.Render()))
	return err
}
