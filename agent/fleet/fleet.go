// Package fleet is a node's part in a fleet: hosts that share limits by a store, Valkey or Redis,
// and nothing else that mail would wait for. Package lease has the rules by which limits are
// divided; this one makes its calls, by one connection to the store.
//
// Open makes a Fleet, which then says what may be used of each limit (it is a queue.Lender), Run
// renews until its context ends, which is no leave: the node comes back, and its floors wait for
// it. Forget, Bootstrap and Leave are an admin's words to the store.
//
// Nothing waits for the store. Who asks what may be used gets what is known; a call has its
// deadline, and is made by a goroutine of its own. While the store is away a lease counts to its
// end, by a clock that goes on while the host sleeps, then the floor. Run has the queue end what is
// idle beyond it in that moment.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/agent/queue"
)

// ACLHint is what the store's user must be allowed. It has "nocommands" for -@all, which reads like
// an address, of which /readyz shows the domain alone.
const ACLHint = "ACL SETUSER millrace on >PASSWORD resetkeys ~millrace:* resetchannels nocommands +hello +auth +ping +role +info +time +eval +evalsha " +
	"+hget +hset +hmget +hdel +hscan +hgetall +xadd +xread +xinfo"

// stateFile, in the state directory, keeps which floors this node has.
const stateFile = "fleet.json"

// Options are what a Fleet needs.
type Options struct {
	Config    config.Fleet // in force until the agent ends
	Directory string       // of the state file
	Log       *slog.Logger
	// Of tests: another clock than CLOCK_BOOTTIME, how often it is looked at (else each second),
	// and what is called in place of the servers.
	Boot  func() time.Duration
	Look  time.Duration
	Store Store
}

// Store executes calls.
type Store interface {
	Do(ctx context.Context, c *lease.Call) (*lease.Reply, error)
}

// Work is what the limits are for.
type Work struct {
	Wanted  func() ([]queue.Want, []queue.RateWant) // what could be used
	Lent    func(all bool)                          // more or less may be used than before
	Counted func(time.Time, func(Count))            // what was counted of quotas of a day
	Granted func()                                  // more may be counted than before
	Address func(node string) string                // where another node answers, "": not known; nil: none does
}

// Count is what this node has counted of a limit on a day.
type Count struct {
	Key, Day       string
	Limit, Counted int
}

// Fleet is a node's part. Its methods may be called by many goroutines; a nil Fleet is that of a
// host without one.
type Fleet struct {
	o      Options
	member *lease.Member
	store  Store
	own    *store // the same, if it is a connection
	kick   chan struct{}
	asked  atomic.Bool
	leaves atomic.Bool // nothing of what is shared begins here any more

	turn    sync.Mutex // one call at a time
	gone    bool       // with turn: the member leaves, as nothing of what is shared is under way
	divisor int        // with turn: that of the floors when that was last told

	mu     sync.Mutex
	status Status
	told   map[lease.Less]bool // in the log
}

// Status is how a node stands with its fleet.
type Status struct {
	lease.Status
	Fleet, Node string
	Server      string    // of the store, that answered last
	Away        error     // why the store did not answer the last call; nil: it did
	Since       time.Time // when that began
	Runs        float64   // seconds that the lease runs yet; 0: it has ended
	Calls       int64     // answered
	Errors      int64     // not answered
	Took        time.Duration
	Leaves      int // this node was told to leave, and does when so many sessions have ended; 0: it was not, or has
}

// HasPart says whether this node has a part in a fleet that it did not leave; directory has the
// state file, "" has none. Others count on it to keep to that part.
func HasPart(directory string) bool {
	return directory != "" && lease.HasPart(filepath.Join(directory, stateFile))
}

// Boot is the time since the host was booted, while it slept, too.
func Boot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// Open reads what this node knows of its fleet. The store is not asked before Run.
func Open(o Options) (*Fleet, error) {
	if o.Boot == nil {
		o.Boot = Boot
	}
	if o.Look == 0 {
		o.Look = time.Second
	}
	f := &Fleet{o: o, store: o.Store, kick: make(chan struct{}, 1), told: make(map[lease.Less]bool)}
	m, err := lease.Open(filepath.Join(o.Directory, stateFile), lease.Options{
		Fleet: o.Config.Name, Node: o.Config.Node, Nodes: int(o.Config.Nodes), Boot: o.Boot, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	f.member = m
	if f.store == nil {
		f.own = &store{o: &f.o.Config, script: redis.NewScript(lease.Script)}
		f.store = f.own
	}
	f.status = Status{Fleet: o.Config.Name, Node: o.Config.Node, Since: time.Now(), Away: errNotAsked}
	return f, nil
}

// errNotAsked is how a Fleet begins.
var errNotAsked = errors.New("it was not asked yet")

// Sessions implements queue.Lender, as the next ones do.
func (f *Fleet) Sessions(key string, limit int) int {
	if f.leaves.Load() {
		return 0
	}
	return f.member.Sessions(key, limit)
}

// Rate implements queue.Lender.
func (f *Fleet) Rate(key string, limit float64) float64 {
	if f.leaves.Load() {
		return 0
	}
	return f.member.Rate(key, limit)
}

// Floor implements queue.Lender: of a limit that nobody asks for, nothing is lent.
func (f *Fleet) Floor(limit int) int { return f.Sessions("", limit) }

// FloorRate implements queue.Lender.
func (f *Fleet) FloorRate(limit float64) float64 { return f.Rate("", limit) }

// Ask implements queue.Lender: it has the next call made at once.
func (f *Fleet) Ask() {
	if !f.asked.Swap(true) {
		select {
		case f.kick <- struct{}{}:
		default:
		}
	}
}

// Bound is how far this node's own count of a day may go. What is counted by the hour has no
// loans, day "": each node has its floor.
func (f *Fleet) Bound(key, day string, limit int) int {
	switch {
	case day == "":
		return f.Floor(limit)
	case f.leaves.Load():
		return 0
	}
	return f.member.Bound(key, day, limit)
}

// Run renews the leases until ctx ends.
func (f *Fleet) Run(ctx context.Context, w Work) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { f.watchEnd(ctx, w) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if f.own != nil {
				f.turn.Lock()
				f.own.close()
				f.turn.Unlock()
			}
			return
		case <-timer.C:
		case <-f.kick:
		}
		if f.asked.Load() {
			f.member.Soon()
		}
		if wait := f.member.Due() - f.o.Boot(); wait > 0 {
			timer.Reset(min(wait, f.o.Look)) // a timer stands still while the host sleeps
			continue
		}
		f.asked.Store(false)
		f.renew(ctx, w)
		timer.Reset(min(lease.Shortest, f.o.Look))
	}
}

// renew makes one call.
func (f *Fleet) renew(ctx context.Context, w Work) {
	f.turn.Lock()
	defer f.turn.Unlock()
	list := f.demands(w)
	counts := 0
	w.Counted(time.Now(), func(x Count) {
		counts++
		list = append(list, lease.Demand{Key: x.Key, Kind: lease.Count, Day: x.Day, Limit: float64(x.Limit), Used: int64(x.Counted)})
	})
	f.member.Want(list)
	if f.leaves.Load() && !f.gone && underWay(list) == 0 {
		if err := f.leave(ctx); err != nil {
			f.o.Log.Error("this node cannot leave the fleet yet, and tries again", "err", err)
		}
		return
	}
	c := f.member.Call()
	f.lent(w) // what the call gives up ends before the store hears of it
	answered := f.call(ctx, c)
	if w.Address != nil {
		f.member.Keep(w.Address)
	}
	if !answered {
		return
	}
	f.lent(w)
	f.tellLess(f.member.Less())
	if counts > 0 {
		w.Granted()
	}
}

// lent tells what may be used by now. The caller holds turn.
func (f *Fleet) lent(w Work) {
	d := f.member.Divisor()
	w.Lent(d != f.divisor)
	f.divisor = d
}

// call has the store execute a call, and notes how that went. The caller holds turn.
func (f *Fleet) call(ctx context.Context, c *lease.Call) bool {
	if c == nil {
		return false
	}
	began := time.Now()
	r, err := f.store.Do(ctx, c)
	f.member.Done(c, r, err)
	if ctx.Err() != nil {
		return false // it is the agent that ends
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.status
	if (err == nil) != (s.Away == nil) || s.Away == errNotAsked {
		s.Since = began
		if err != nil {
			f.o.Log.Warn("the fleet's store is away: this node uses its lease, then its floors", "err", err)
		} else if s.Away != errNotAsked {
			f.o.Log.Info("the fleet's store is back")
		}
	}
	s.Away = err
	if err != nil {
		s.Errors++
		return false
	}
	s.Calls++
	s.Took = time.Since(began)
	if f.own != nil {
		s.Server = f.own.server
	}
	return true
}

// tellLess logs the limits that are smaller with others, when they become so.
func (f *Fleet) tellLess(list []lease.Less) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range list {
		if !f.told[x] {
			f.o.Log.Warn("a shared limit is smaller on another node, and that is what is lent; remedy: the same [[queue]], [[stream]] and millrace set on all nodes",
				"limit", limitName(x), "there", limitThere(x), "node", x.Node)
		}
	}
	clear(f.told)
	for _, x := range list {
		f.told[x] = true
	}
}

// limitName is a limit as configurations and listings have it.
func limitName(x lease.Less) string { _, name, _ := strings.Cut(x.Field, ":"); return name }

// limitThere is a limit in sessions, or in messages a second.
func limitThere(x lease.Less) string {
	if strings.HasPrefix(x.Field, "r:") {
		return fmt.Sprintf("%g/s", float64(x.Limit)/1000)
	}
	return fmt.Sprint(x.Limit)
}

// watchEnd tells when a lease has ended, or the floors of the file are used for want of a store, while a call may be under way.
func (f *Fleet) watchEnd(ctx context.Context, w Work) {
	timer := time.NewTimer(f.o.Look)
	defer timer.Stop()
	var told time.Duration
	doubted := f.member.Status().Doubts
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := f.o.Look
		if doubted {
			if doubted = f.member.Status().Doubts; !doubted {
				w.Lent(true)
			}
		}
		if end, ok := f.member.Ends(); ok && end != told {
			if left := end - f.o.Boot(); left > 0 {
				wait = min(wait, left)
			} else {
				told = end
				w.Lent(false)
			}
		}
		timer.Reset(max(wait, time.Millisecond))
	}
}

// Status tells how the node stands with its fleet; of a nil Fleet it is the zero value.
func (f *Fleet) Status() Status {
	if f == nil {
		return Status{}
	}
	m := f.member.Status()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Status = m
	if m.Answered {
		s.Runs = max(0, (m.Ends - f.o.Boot()).Seconds())
	}
	return s
}

// State is how that is in a word.
func (s *Status) State() string {
	switch {
	case s.Left:
		return "left"
	case s.Away != nil:
		return "away"
	case s.Why != "":
		return s.Why
	case !s.Active || s.Doubts:
		return "new"
	}
	return "ok"
}

// Members are the names of the fleet's nodes, as this one knows them from the store; none of a nil
// Fleet.
func (f *Fleet) Members() []string {
	if f == nil {
		return nil
	}
	return f.member.Members()
}

// Address is where another node was last known to answer, "": it was not; that outlives a restart.
func (f *Fleet) Address(node string) string { return f.member.Address(node) }

// Warnings are what an admin should look at. Nothing of it stops mail.
func (s *Status) Warnings() (list []string) {
	switch {
	case s.Fleet == "":
	case s.Left:
		list = append(list, fmt.Sprintf("this node has left the fleet %s, and sends nothing of what is shared: take [fleet] out of the configuration, or join anew by a restart", s.Fleet))
	case s.Away != nil && s.Away != errNotAsked:
		uses := "its own part of each shared limit"
		switch {
		case s.Runs > 0:
			uses = fmt.Sprintf("what it was lent for another %.0f s, then %s", s.Runs, uses)
		case s.Doubts:
			uses = "nothing of what is shared, for ten seconds from its start, then " + uses
		case !s.Active:
			uses = "nothing of what is shared, as it has no part of it yet"
		}
		list = append(list, fmt.Sprintf("the store of the fleet %s is away since %s (%s): this node uses %s", s.Fleet, s.Since.Format(time.TimeOnly), printable(s.Away.Error()), uses))
	case s.Why == lease.Recovery:
		list = append(list, "the store of the fleet "+s.Fleet+" is new or was started anew: for half a minute it lends nothing more")
	case s.Why == lease.Unknown:
		list = append(list, "the store of the fleet "+s.Fleet+" knows no member: if this is a new fleet say so, once and at one node, by millrace fleet bootstrap; else wait for a node that was a member")
	}
	if s.Leaves > 0 {
		list = append(list, fmt.Sprintf("this node leaves the fleet %s, and begins nothing of what is shared: %d sessions were under way when that was said, and it has left when they have ended", s.Fleet, s.Leaves))
	}
	if s.Forgot {
		list = append(list, "this node was forgotten (millrace fleet forget) while it was off: it joins the fleet "+s.Fleet+" anew, and has no part of its own until all others have a smaller one")
	}
	for _, x := range s.Less {
		list = append(list, fmt.Sprintf("the limit %s is smaller on node %s, %s, and that is what is lent: configure the same on all nodes", limitName(x), x.Node, limitThere(x)))
	}
	return list
}

// Forget has the store drop a node that is off for good: its floors are lent to others. The store
// refuses that of one that it has heard of lately.
func (f *Fleet) Forget(ctx context.Context, node string) error {
	s := f.member.Status()
	switch {
	case node == f.o.Config.Node:
		return errors.New("that is this node; remedy: millrace fleet leave")
	case !slices.Contains(s.Table.Members, node):
		return fmt.Errorf("there is no member %q; remedy: see millrace fleet", node)
	}
	said := f.member.Forget(node)
	f.Ask()
	err := lease.ErrNotSaid
	select {
	case err = <-said:
	case <-ctx.Done():
	case <-time.After(12 * time.Second): // the member does not say it for longer
	}
	switch err {
	case nil:
		f.o.Log.Info("the fleet has forgotten a node", "node", node)
		return nil
	case lease.ErrCalls:
		return fmt.Errorf("%s was not forgotten: %w; remedy: stop it for good, and say this again in a minute", node, err)
	case lease.ErrUnknown:
		return fmt.Errorf("%s was not forgotten: %w; remedy: say this again in a minute", node, err)
	}
	return fmt.Errorf("%s was not forgotten, as far as this node knows: %w; remedy: see millrace fleet, and say this again when the store is back", node, err)
}

// Bootstrap says that no node of this fleet was ever granted anything.
func (f *Fleet) Bootstrap() error {
	if s := f.member.Status(); s.Table.Version != "" {
		return fmt.Errorf("the fleet has members: %v", s.Table.Members)
	}
	f.member.Found()
	f.Ask()
	return nil
}

// printable is a server's text as one line.
func printable(s string) string { return queue.ReasonOf(errors.New(s)) }
