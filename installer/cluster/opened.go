package cluster

import (
	"context"
	"errors"

	"k8s.io/client-go/rest"
)

// REST is the connection's configuration, for who reads the cluster in ways of their own.
func (c *Cluster) REST() *rest.Config { return rest.CopyConfig(c.config) }

// Installed is the mesh of the last installation that was finished, as it was rendered then.
func (c *Cluster) Installed(ctx context.Context, namespace string) (*Mesh, error) {
	inv, err := c.readInventory(ctx, namespace)
	switch {
	case err != nil:
		return nil, err
	case inv.secret == nil:
		return nil, notInstalled(namespace)
	case inv.Revision == 0:
		return nil, errors.New("the first installation was not finished; run it again, or say which mesh it is with --profile and -f")
	}
	r, err := inv.revision(inv.Revision)
	if err != nil {
		return nil, err
	}
	return &Mesh{Values: r.Values, Components: r.Components}, nil
}
