package redisstore

import (
	"context"
	"errors"
	"net"

	"github.com/redis/go-redis/v9"
)

// The client of a cluster tries again by itself, up to three times: what is elsewhere (MOVED, ASK), and a pipeline of
// which an answer was lost or the first was an error that passes. It leaves the last try's error, which says nothing about those
// before. So each call has a note of whether one of them may have been carried out, which a hook of each node's client takes.

// noted is a command of which it is known whether a try that did not end it may have been carried out.
type noted struct {
	*redis.StringCmd
	ran *bool
}

// command is g as the client is to send it.
func (s *Store) command(ctx context.Context, g *group) redis.Cmder {
	g.cmd = redis.NewStringCmd(ctx, s.arguments(g.calls)...)
	g.cmd.SetFirstKeyPos(3)
	if !s.cluster {
		return g.cmd
	}
	return noted{g.cmd, &g.calls[0].unsure}
}

// watch hooks the clients of all nodes, those to come as well.
func watch(ctx context.Context, client redis.UniversalClient) error {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	err := cluster.ForEachShard(ctx, func(_ context.Context, node *redis.Client) error {
		node.AddHook(witness{})
		return nil
	})
	cluster.OnNewNode(func(node *redis.Client) { node.AddHook(witness{}) })
	return err
}

// witness sees each try of a pipeline at one node.
type witness struct{}

// DialHook implements redis.Hook.
func (witness) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (witness) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook. An error of the pipeline that is no answer is one of the connection.
func (witness) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		broke := err != nil && !isAnswer(err) && !isUnsent(err)
		for _, cmd := range cmds {
			if n, ok := cmd.(noted); ok && (broke || n.Err() == nil) {
				*n.ran = true
			}
		}
		return err
	}
}

func isAnswer(err error) bool {
	var refusal redis.Error
	return errors.As(err, &refusal)
}

// isUnsent reports whether there was no connection to send anything on.
func isUnsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
