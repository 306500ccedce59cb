package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// standing is what admins, and rules about replies, have asked for, and what lasts
// over a restart: brakes, limits, priorities.
//
// The queue knows lanes: it stops by queue, site, stream and domain itself. Sender,
// SASL user and client stand only in the envelope. Of a message that comes in they
// are compared then (halted); those that are queued already a sweep goes through.
type standing struct {
	mu    sync.Mutex // one change at a time, of the file too
	now   atomic.Pointer[control.Standing]
	dirty bool      // the file lacks what rules about replies have changed
	kept  time.Time // when the file was written last
	// full: no more is paused for rules, for good or for a time, which was told.
	full struct{ good, time bool }
	// arrivals is held to read while a message that was compared is brought into the
	// queue: a sweep that starts after a change misses none.
	arrivals sync.RWMutex
	sweeping sync.Mutex
	// hostStopped: the host MTA is stopped, and the configuration wants that to stop us.
	hostStopped atomic.Bool
}

// standingFile, in the state directory, keeps it: an admin's pause must not end
// because the agent did.
const standingFile = "standing.json"

// Standing implements control.Backend.
func (a *Agent) Standing() control.Standing {
	s := *a.standing.now.Load()
	if a.standing.hostStopped.Load() {
		s.Brakes = append(slices.Clone(s.Brakes), hostBrake())
	}
	return s
}

// order makes one change of what is in force, durable before it returns, and has the
// queue follow. An error of change leaves all as it was.
func (a *Agent) order(change func(*control.Standing) error) error {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	old := *a.standing.now.Load()
	next := control.Standing{Brakes: slices.Clone(old.Brakes), Limits: slices.Clone(old.Limits), Priorities: maps.Clone(old.Priorities)}
	if err := change(&next); err != nil {
		return err
	}
	if err := a.enforce(old, next); err != nil {
		return err
	}
	return a.keep(&next)
}

const (
	// maxRulePauses is how many streams rules about replies pause at a time, for good and
	// again for a time: receivers decide how many replies there are, and whoever sends how
	// many streams. More would be no help to an admin, who has to see to the cause.
	maxRulePauses = 100
	// maxPauseReason bounds what is kept of a reply, in octets.
	maxPauseReason = 300
	// keepGap is the least time from one writing of the file for rules to the next. After a
	// crash what they had paused since goes on until its receivers have said it again.
	keepGap = 10 * time.Second
)

// byRule begins the name of who paused, where a rule about replies did.
const byRule = "reply rule "

// pauseFor puts a brake on for a rule about replies, at once; the file follows. It returns
// false if the same, or the stream everywhere, is paused already, or as much is as rules
// may pause.
func (a *Agent) pauseFor(b control.Brake) bool {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	old := *a.standing.now.Load()
	if brakeOn(&old, b.Filter) != nil || brakeOn(&old, control.Filter{Stream: b.Filter.Stream}) != nil {
		return false
	}
	paused := 0
	for _, x := range old.Brakes {
		if strings.HasPrefix(x.Who, byRule) && x.Until.IsZero() == b.Until.IsZero() {
			paused++
		}
	}
	full, told := paused >= maxRulePauses, &a.standing.full.time
	if b.Until.IsZero() {
		told = &a.standing.full.good
	}
	if full && !*told {
		a.log.Error("no more is paused for reply rules, as so much is already; see to the cause, then millrace resume",
			"paused", paused, "next", b.Filter.String(), "who", b.Who)
	}
	if *told = full; full {
		return false
	}
	b.Reason = cut(b.Reason, maxPauseReason)
	next := control.Standing{Brakes: append(slices.Clone(old.Brakes), b), Limits: old.Limits, Priorities: old.Priorities}
	if err := a.enforce(old, next); err != nil {
		a.log.Error("paused by a reply rule", "on", b.Filter.String(), "err", err)
		return false
	}
	a.standing.dirty = true
	return true
}

// keepPauses writes what rules about replies have changed, if some time has passed or
// it must be now.
func (a *Agent) keepPauses(now time.Time, must bool) {
	a.standing.mu.Lock()
	defer a.standing.mu.Unlock()
	if !a.standing.dirty || !must && now.Sub(a.standing.kept) < keepGap {
		return
	}
	if err := a.keep(a.standing.now.Load()); err != nil {
		a.log.Error("paused by reply rules", "err", err)
	}
}

// enforce puts into force what is new. The sweep for what only envelopes tell is the
// caller's: it takes long.
func (a *Agent) enforce(old, next control.Standing) error {
	for stream := range old.Priorities {
		if next.Priorities[stream] == 0 {
			if err := a.queue.SetPriority(stream, 0); err != nil {
				return err
			}
		}
	}
	for stream, n := range next.Priorities {
		if err := a.queue.SetPriority(stream, n); err != nil {
			return err
		}
	}
	a.standing.arrivals.Lock()
	a.standing.now.Store(&next)
	a.standing.arrivals.Unlock()
	var brakes []queue.Brake
	for _, b := range next.Brakes {
		if f := b.Filter; !ofEnvelope(f) {
			brakes = append(brakes, queue.Brake{Queue: f.Queue, Site: f.Site, Stream: f.Stream, Domain: f.Domain, Reason: b.Reason})
		}
	}
	if a.standing.hostStopped.Load() {
		brakes = append(brakes, queue.Brake{Reason: hostBrake().Reason})
	}
	a.queue.SetBrakes(brakes)
	if slices.Equal(old.Limits, next.Limits) {
		return nil
	}
	var limits []queue.Limit
	for _, l := range next.Limits {
		limits = append(limits, queue.Limit{Name: l.Name, Sessions: l.Sessions, Rate: l.Rate,
			Reason: fmt.Sprintf("set by %s until %s", l.Who, l.Until.UTC().Format(time.RFC3339))})
	}
	a.queue.SetLimits(limits)
	return nil
}

// ofEnvelope says whether a brake is about what only the envelope tells.
func ofEnvelope(f control.Filter) bool { return f.Sender != "" || f.User != "" || f.Client != "" }

// halted says whether a brake is on for a message by what its envelope tells.
func (a *Agent) halted(e *spool.Envelope) bool { return a.halting(e) != nil }

// halting is the brake that is on for a message by what its envelope tells, or nil.
func (a *Agent) halting(e *spool.Envelope) *control.Brake {
	list := a.standing.now.Load().Brakes
	for i := range list {
		if f := &list[i].Filter; ofEnvelope(*f) && fits(f, e) {
			return &list[i]
		}
	}
	return nil
}

// add brings a message into the queue, halted or not.
func (a *Agent) add(id spool.ID, e *spool.Envelope, st []spool.State) {
	a.standing.arrivals.RLock()
	defer a.standing.arrivals.RUnlock()
	a.queue.Add(id, e, domains(e), st)
}

// sweep halts the queued messages that a brake is on for by what their envelopes
// tell, and lets the others go. One that comes after a change sees it.
func (a *Agent) sweep() {
	a.standing.sweeping.Lock()
	defer a.standing.sweeping.Unlock()
	s := selection{agent: a}
	var halt, free []queue.Entry
	a.queue.List(func(page []queue.Entry) bool {
		halt, free = halt[:0], free[:0]
		any := slices.ContainsFunc(a.Standing().Brakes, func(b control.Brake) bool { return ofEnvelope(b.Filter) })
		for _, e := range page {
			if !any && !e.Halted {
				continue
			}
			env := s.envelope(e.ID)
			switch on := env != nil && a.halted(env); {
			case on && !e.Halted:
				halt = append(halt, e)
			case !on && e.Halted:
				free = append(free, e)
			}
		}
		a.queue.Halt(halt)
		a.queue.Unhalt(free)
		return a.stop.Err() == nil
	})
}

// lift ends what ends by itself by now.
func (a *Agent) lift(now time.Time) {
	over := func(until time.Time) bool { return !until.IsZero() && !now.Before(until) }
	st := a.Standing()
	if !slices.ContainsFunc(st.Brakes, func(b control.Brake) bool { return over(b.Until) }) &&
		!slices.ContainsFunc(st.Limits, func(l control.Limit) bool { return over(l.Until) }) {
		return
	}
	sweep := false
	err := a.order(func(s *control.Standing) error {
		s.Brakes = slices.DeleteFunc(s.Brakes, func(b control.Brake) bool {
			if !over(b.Until) {
				return false
			}
			a.log.Info("brake comes off, its time is over", "on", b.Filter.String(), "reason", b.Reason)
			sweep = sweep || ofEnvelope(b.Filter)
			return true
		})
		s.Limits = slices.DeleteFunc(s.Limits, func(l control.Limit) bool {
			if over(l.Until) {
				a.log.Info("temporary limit ends", "of", l.Name)
			}
			return over(l.Until)
		})
		return nil
	})
	if err != nil {
		a.log.Error("brake comes off", "err", err)
	}
	if sweep {
		a.sweep()
	}
}

// keep writes what is in force; on return it will outlive a crash. The caller holds
// standing.mu.
func (a *Agent) keep(s *control.Standing) error {
	a.standing.dirty, a.standing.kept = false, time.Now()
	dir := a.now.Load().config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "\t")
	if err == nil {
		err = durable.Replace(filepath.Join(dir, standingFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("this is in force, but will not outlive the agent: %w", err)
	}
	return nil
}

// restore puts into force what an earlier agent kept.
func (a *Agent) restore() error {
	a.standing.now.Store(&control.Standing{})
	dir := a.now.Load().config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, standingFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s control.Standing
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err == nil {
		err = a.enforce(control.Standing{}, s)
	}
	if err != nil {
		// To send what somebody has paused is worse than not to start.
		return fmt.Errorf("the brakes that are on cannot be read: %w; remedy: mend %s, or remove it to let all mail go on", err, path)
	}
	return nil
}

// sameAddress compares envelope addresses as a filter names them.
func sameAddress(filter, address string) bool {
	return strings.EqualFold(filter, address) || filter == nullSender && address == ""
}

// nullSender is how a filter names the sender of reports.
const nullSender = "<>"
