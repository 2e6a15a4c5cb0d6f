package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// errLost is why work stops when the lease was not renewed in time.
var errLost = fmt.Errorf("%w: the lease on the mesh was lost, so another sluice may be at work; see 'sluice mesh status'", ErrConflict)

// hold takes the lease on the mesh of a namespace, so that two installers can't
// work on it at once, and renews it until release is called. The context that it returns
// ends when the lease is lost. A holder that died blocks others for one lease
// life (30 s); with clocks apart by more than that, the inventory's resource version
// is what is left to refuse the second writer.
func (c *Cluster) hold(ctx context.Context, namespace string) (held context.Context, release func(), err error) {
	l, err := c.takeLease(ctx, namespace)
	if err != nil {
		return nil, nil, c.explain(err)
	}
	held, lost := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(c.lease / 6)
		defer tick.Stop()
		renewed := c.now()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			err := c.renew(ctx, l)
			switch {
			case err == nil:
				renewed = c.now()
			case errors.Is(err, errLost), c.now().Sub(renewed) > c.lease*2/3:
				lost(errLost)
				return
			}
		}
	})
	var once sync.Once
	return held, func() {
		once.Do(func() {
			close(done)
			renewing.Wait()
			lost(nil)
			dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.lease/3)
			defer cancel()
			// If it can't be deleted it runs out by itself.
			_ = c.client.Delete(dctx, l, client.Preconditions{UID: &l.UID})
		})
	}, nil
}

// renew writes the time into the lease. A busy API server may have carried out what it did not answer in
// time, and then our own write is in our way: the lease is lost only if it is gone or another's.
func (c *Cluster) renew(ctx context.Context, l *coordinationv1.Lease) error {
	// A context of its own: after Ctrl-C the last request may still be on its way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.lease/3)
	defer cancel()
	l.Spec.RenewTime = ptr.To(metav1.NewMicroTime(c.now()))
	err := c.client.Update(ctx, l)
	if apierrors.IsConflict(err) {
		there := &coordinationv1.Lease{}
		if err = c.client.Get(ctx, client.ObjectKeyFromObject(l), there); err == nil {
			if there.UID != l.UID || ptr.Deref(there.Spec.HolderIdentity, "") != c.holder {
				return errLost
			}
			l.ResourceVersion = there.ResourceVersion
			err = c.client.Update(ctx, l)
		}
	}
	if apierrors.IsNotFound(err) {
		return errLost
	}
	return err
}

func (c *Cluster) takeLease(ctx context.Context, namespace string) (*coordinationv1.Lease, error) {
	now := metav1.NewMicroTime(c.now())
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: inventoryName}}
	spec := coordinationv1.LeaseSpec{
		HolderIdentity: ptr.To(c.holder), LeaseDurationSeconds: ptr.To(int32(c.lease.Seconds() + 0.999)),
		AcquireTime: &now, RenewTime: &now,
	}
	err := c.client.Get(ctx, client.ObjectKeyFromObject(l), l)
	switch {
	case apierrors.IsNotFound(err):
		l.Spec = spec
		err = c.client.Create(ctx, l, client.FieldOwner(Manager))
	case err != nil:
		return nil, fmt.Errorf("reading the lease on the mesh: %w", err)
	default:
		if by, left := leaseLeft(l, c.now()); left > 0 {
			return nil, fmt.Errorf("%w: another sluice (%s) is at work on this mesh since %s; wait for it. If it died, try again in %s",
				ErrConflict, by, ptr.Deref(l.Spec.AcquireTime, now).UTC().Format(time.RFC3339), left.Round(time.Second))
		}
		l.Spec = spec
		err = c.client.Update(ctx, l, client.FieldOwner(Manager))
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return nil, fmt.Errorf("%w: another sluice began to work on this mesh just now; wait for it", ErrConflict)
	}
	if err != nil {
		return nil, fmt.Errorf("taking the lease on the mesh: %w", err)
	}
	return l, nil
}

// leaseLeft says who holds a lease and for how long yet; 0 if nobody does.
func leaseLeft(l *coordinationv1.Lease, now time.Time) (by string, left time.Duration) {
	if l.Spec.HolderIdentity == nil || l.Spec.RenewTime == nil {
		return "", 0
	}
	life := time.Duration(ptr.Deref(l.Spec.LeaseDurationSeconds, 0)) * time.Second
	return *l.Spec.HolderIdentity, max(0, life-now.Sub(l.Spec.RenewTime.Time))
}

// cause is why a context ended, if it was not the caller's doing.
func cause(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errLost) {
		return errLost
	}
	return err
}
