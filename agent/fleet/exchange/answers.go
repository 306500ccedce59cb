package exchange

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// call is one of the calls of the store.
type call string

const (
	callAdd    call = "add"
	callRead   call = "read"
	callEnd    call = "end"
	callReport call = "report"
	callList   call = "list"
)

// States of the store, in which orders do not go by it.
const (
	storeAway    = "away"
	storeRefuses = "refuses" // it answers, and does not do some of the calls
)

// answered notes what came of a call of the store. Any answer ends that it is away; only the same
// call shows that it is no longer refused.
func (x *Exchange) answered(ctx context.Context, c call, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var said redis.Error
	switch {
	case err == nil:
		x.reached, x.away = x.o.now(), nil
		delete(x.refused, c)
	case ctx.Err() != nil:
		return // it is the agent that ends
	case errors.As(err, &said):
		x.away, x.refused[c] = nil, err
	default:
		x.away = err
	}
	state := ""
	switch {
	case x.away != nil:
		state = storeAway
	case len(x.refused) > 0:
		state = storeRefuses
	}
	if state == x.state {
		return
	}
	switch x.state = state; state {
	case storeAway:
		x.o.Logger.Warn("fleet: the store does not answer: orders reach only nodes that can be called directly until it does", "err", x.o.Plain(err))
	case storeRefuses:
		x.o.Logger.Warn("fleet: the store answers, and refuses what orders need: they reach only nodes that can be called directly until it does not", "err", x.refusal())
	default:
		x.o.Logger.Info("fleet: the store answers again; orders are exchanged")
	}
}

// answers reports whether the store answered the last call, whatever it said.
func (x *Exchange) answers() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.away == nil
}

// refusal is what the store has answered to one of the calls that it does not do. The caller holds mu.
func (x *Exchange) refusal() error {
	for _, c := range []call{callAdd, callRead, callEnd, callReport, callList} {
		if err := x.refused[c]; err != nil {
			return x.o.Plain(err)
		}
	}
	return nil
}

// Trouble is what an admin must know while it lasts, with its remedy; none of a nil Exchange. That
// the store is away is told by those who need it for more than orders.
func (x *Exchange) Trouble() []string {
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state != storeRefuses {
		return nil
	}
	return []string{"the store of the fleet answers, and refuses what orders need, which reach only nodes that can be called directly: " + x.refusal().Error()}
}
