package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/peer"
)

// checkScript does what lease.Script does to the store, with a key of its own, which it removes.
const checkScript = `redis.call('INFO', 'server') redis.call('TIME')
redis.call('HSET', KEYS[1], 'a', '1') redis.call('HGET', KEYS[1], 'a') redis.call('HMGET', KEYS[1], 'a')
redis.call('HSCAN', KEYS[1], '0') redis.call('HDEL', KEYS[1], 'a') return 'ok'`

// Check looks at the certificate that this node shows to others, asks each server of the store
// whether this node may use it, and returns what is wrong, each with its remedy. Nothing of it
// stops mail.
func Check(ctx context.Context, o *config.Fleet) (wrong []string) {
	if !o.On() {
		return nil
	}
	if o.Alone() == "" {
		f := peer.Files{Fleet: o.Name, Node: o.Node, CA: o.TLSCAFile, Cert: o.TLSCertFile, Key: o.TLSKeyFile}
		if err := peer.Check(f); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	primaries := 0
	for _, at := range o.Stores {
		one := *o
		one.Stores = []config.FleetStore{at}
		c, _, err := Connect(ctx, &one)
		if err == nil {
			primaries++
			err = mayUse(ctx, c, o.Name)
			c.Close()
		}
		if err != nil && !errors.Is(err, errReplica) {
			wrong = append(wrong, fmt.Sprintf("the fleet's store %s cannot be used: %v; without it this node uses its own part of each shared limit", at.Address, err))
		}
	}
	if primaries == 0 {
		wrong = append(wrong, "none of [fleet] servers is a primary that answers; remedy: start it, or list it")
	}
	return wrong
}

// mayUse says what of it the store's user is not allowed.
func mayUse(ctx context.Context, c *redis.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	if err := c.Eval(ctx, checkScript, []string{"millrace:{" + name + "}:check"}).Err(); err != nil {
		return Plain(err)
	}
	if err := c.EvalSha(ctx, "0000000000000000000000000000000000000000", []string{"millrace:{" + name + "}:check"}).Err(); err != nil && !redis.HasErrorPrefix(err, "NOSCRIPT") {
		return Plain(err)
	}
	// Orders: of a stream that does not exist, and is not made.
	stream := "millrace:{" + name + "}:check"
	for _, err := range []error{
		c.XAdd(ctx, &redis.XAddArgs{Stream: stream, NoMkStream: true, Values: []string{"a", "1"}}).Err(),
		c.XRead(ctx, &redis.XReadArgs{Streams: []string{stream, "0"}, Block: -1}).Err(),
		c.XInfoStream(ctx, stream).Err(),
	} {
		if redis.HasErrorPrefix(err, "NOPERM") {
			return Plain(err)
		}
	}
	return nil
}
