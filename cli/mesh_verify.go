package cli

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/voicecore-ai/sluice/installer/check"
	"github.com/voicecore-ai/sluice/installer/cluster"
)

// probeFlags say what is asked of the mesh through its gateway.
func probeFlags(c *cobra.Command, p *check.Probe) {
	c.Flags().StringVar(&p.URL, "probe-url", "", "`URL` that the credential may have, through the ingress gateway")
	c.Flags().StringVar(&p.Address, "probe-address", "", "`host:port` of the gateway, in place of the URL's host")
	c.Flags().StringArrayVar(&p.Headers, "probe-header", nil, "'name: value' with the credential; repeatable")
	c.Flags().StringVar(&p.Forbidden, "probe-forbidden", "", "`URL or path` that the credential may not have")
	c.Flags().StringVar(&p.Excluded, "probe-excluded", "", "`URL or path` of sluice.excludedPaths")
	c.Flags().IntVar(&p.Limit, "probe-limit", 0, "send up to `N` requests until one is refused with 429; they are charged")
	c.Flags().BoolVar(&p.Insecure, "probe-insecure", false, "believe any certificate of the gateway")
}

func meshVerifyCommand() *cobra.Command {
	var f meshFlags
	var p check.Probe
	var patience time.Duration
	c := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the mesh that was laid down acts",
		Long: `Looks for effects: each proxy runs Sluice's filters in their order and refuses nothing of what istiod sends it, mutual
TLS is strict on port 15006, every pod has a proxy, certificates have time left, the consoles answer, and a request
through the gateway gets its 200, 403 and 429. What was not asked for, since no --probe-… says how, is a warning.

The mesh is the one in the inventory, unless --profile, -f or --set name another. It reads, and has the API
server create a pod without keeping it. docs/reference/checks.md explains each code. The exit status is 3 if a check fails.`,
		Example: `  sluice mesh verify
  sluice mesh verify --probe-url https://voicecore.example.com/v1/calls --probe-header "authorization: Bearer $TOKEN" \
      --probe-forbidden /admin --probe-excluded /healthz --probe-limit 200
  sluice mesh verify --wait 2m -o junit > verify.xml`,
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
			r, err := f.verify(c, k, check.Options{Mesh: m, Probe: &p}, patience)
			if err != nil {
				return err
			}
			if err := f.printReport(c.OutOrStdout(), "verify", r); err != nil {
				return err
			}
			return failing(r)
		},
	}
	f.outputs(c, "table", checkFormats...)
	f.cluster(c)
	f.values(c)
	f.where(c)
	probeFlags(c, &p)
	c.Flags().DurationVar(&patience, "wait", 0, "ask again for so long while a check fails")
	return c
}

// verify asks until nothing fails or patience ends.
func (f *meshFlags) verify(c *cobra.Command, k *cluster.Cluster, o check.Options, patience time.Duration) (*check.Report, error) {
	return settle(c, patience, func() (*check.Report, error) {
		opened, err := check.Open(k, o)
		if err != nil {
			return nil, err
		}
		return check.Verify(c.Context(), opened), c.Context().Err()
	})
}
