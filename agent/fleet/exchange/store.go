package exchange

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// store is what the nodes have in common.
type store interface {
	// add puts orders into the stream; with none it only shows whether this node may.
	add(ctx context.Context, lines [][]byte) error
	// read returns entries of the stream after one of that id, and the id of the last; it waits
	// for a time if there are none.
	read(ctx context.Context, after string) (lines [][]byte, last string, err error)
	end(ctx context.Context) (id string, err error) // of the last entry that there ever was; begin: none
	report(ctx context.Context, node string, line []byte) error
	list(ctx context.Context) ([][]byte, error)
}

const (
	// begin is the id before the first entry of a stream.
	begin = "0-0"
	// keep is how many entries the stream has, about. What is trimmed is added again where a node
	// lacks it.
	keep = 10_000
	// block is how long a read waits.
	block = 2 * time.Second
	// atOnce is how many entries are read at a time.
	atOnce = 500
	// field is the one of an entry that has the order.
	field = "o"
)

// valkey is a store by the protocol of Valkey and Redis, 6.2 or later.
type valkey struct {
	client          redis.UniversalClient
	orders, reports string // keys
	check           string // a key that does not exist
}

func (v *valkey) add(ctx context.Context, lines [][]byte) error {
	if len(lines) == 0 { // of a stream that does not exist, and is not made
		err := v.client.XAdd(ctx, &redis.XAddArgs{Stream: v.check, NoMkStream: true, Values: []any{field, ""}}).Err()
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	}
	_, err := v.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, line := range lines {
			p.XAdd(ctx, &redis.XAddArgs{Stream: v.orders, MaxLen: keep, Approx: true, Values: []any{field, line}})
		}
		return nil
	})
	return err
}

func (v *valkey) read(ctx context.Context, after string) (lines [][]byte, last string, err error) {
	all, err := v.client.XRead(ctx, &redis.XReadArgs{Streams: []string{v.orders, after}, Count: atOnce, Block: block}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, after, nil
	}
	if err != nil {
		return nil, "", err
	}
	last = after
	for _, s := range all {
		for _, m := range s.Messages {
			last = m.ID
			line, _ := m.Values[field].(string) // "" is no order
			lines = append(lines, []byte(line))
		}
	}
	return lines, last, nil
}

func (v *valkey) end(ctx context.Context) (string, error) {
	info, err := v.client.XInfoStream(ctx, v.orders).Result()
	if err != nil {
		var said redis.Error
		if errors.As(err, &said) && strings.Contains(err.Error(), "no such key") {
			return begin, nil
		}
		return "", err
	}
	return info.LastGeneratedID, nil
}

func (v *valkey) report(ctx context.Context, node string, line []byte) error {
	return v.client.HSet(ctx, v.reports, node, line).Err()
}

func (v *valkey) list(ctx context.Context) (lines [][]byte, err error) {
	all, err := v.client.HGetAll(ctx, v.reports).Result()
	for _, line := range all {
		lines = append(lines, []byte(line))
	}
	return lines, err
}

// before reports whether an id of a stream is less than another. One that cannot be read is 0.
func before(a, b string) bool {
	at, an := parse(a)
	bt, bn := parse(b)
	return cmp.Or(cmp.Compare(at, bt), cmp.Compare(an, bn)) < 0
}

func parse(id string) (at, n uint64) {
	x, y, _ := strings.Cut(id, "-")
	at, _ = strconv.ParseUint(x, 10, 64)
	n, _ = strconv.ParseUint(y, 10, 64)
	return at, n
}
