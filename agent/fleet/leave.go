package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/agent/fleet/lease"
)

// Leave gives up all of this node's floors and leases, for good. Nothing of what is shared begins any
// more, and what is idle ends before the store hears of it. While transactions are under way their
// places are others' too early: Leave returns an error, and Run gives up the rest when they have
// ended. Without the store's word the others do not have it; until it comes Run repeats it.
func (f *Fleet) Leave(ctx context.Context, w Work) error {
	f.turn.Lock()
	defer f.turn.Unlock()
	f.leaves.Store(true)
	w.Lent(true)
	f.Ask()
	if f.gone {
		return f.leaveTaken()
	}
	n := underWay(f.demands(w))
	f.mu.Lock()
	f.status.Leaves = int(n)
	f.mu.Unlock()
	if n > 0 {
		return fmt.Errorf("%d sessions of what is shared are under way; nothing more begins, and this node leaves when they have ended (millrace fleet)", n)
	}
	if err := f.leave(ctx); err != nil {
		return err
	}
	return f.leaveTaken()
}

// leave has the member leave. The caller holds turn, and nothing of what is shared is under way.
func (f *Fleet) leave(ctx context.Context) error {
	c, err := f.member.Leave()
	if err != nil {
		return err
	}
	f.gone = true
	f.mu.Lock()
	f.status.Leaves = 0
	f.mu.Unlock()
	f.call(ctx, c)
	return nil
}

// leaveTaken says whether the store knows.
func (f *Fleet) leaveTaken() error {
	if s := f.Status(); !s.Left {
		return cmp.Or(s.Away, errors.New("the store has not taken it yet; this node says so again until it has"))
	}
	return nil
}

// demands are what could be used, but for counts. Who leaves wants nothing more, and has the store
// keep the places of what is under way. The caller holds turn.
func (f *Fleet) demands(w Work) []lease.Demand {
	sessions, rates := w.Wanted()
	list := make([]lease.Demand, 0, len(sessions)+len(rates))
	for _, x := range sessions {
		if f.leaves.Load() {
			x.Want = x.Used
		}
		list = append(list, lease.Demand{Key: x.Key, Kind: lease.Sessions, Limit: float64(x.Limit), Want: float64(x.Want), Used: int64(x.Used)})
	}
	if f.leaves.Load() {
		return list
	}
	for _, x := range rates {
		list = append(list, lease.Demand{Key: x.Key, Kind: lease.Rate, Limit: x.Limit, Want: x.Want})
	}
	return list
}

// underWay is how many sessions are not idle.
func underWay(list []lease.Demand) (n int64) {
	for _, d := range list {
		if d.Kind == lease.Sessions {
			n += d.Used
		}
	}
	return n
}
