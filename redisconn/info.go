package redisconn

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Info is all that a server says of itself (INFO everything), by name.
func Info(ctx context.Context, c *redis.Client) (map[string]string, error) {
	text, err := c.Info(ctx, "everything").Result()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}
