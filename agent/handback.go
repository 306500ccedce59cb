package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/queue"
)

// This file is about the way back to the host MTA. A recipient that takes it moves
// to the lane of the hand-back relay, and the journal says so: it never goes to its
// receiver again, over restarts too. It ends when the host has said 250. What the
// host refuses stays there, and is tried again.

// HandBack implements control.Backend.
func (a *Agent) HandBack(ctx context.Context, f control.Filter) (control.Selected, error) {
	return a.do(ctx, &deed{[]step{{away, (*Agent).giveBack}}, true}, control.Order{Filter: f}, func(control.Selected) {})
}

// away leaves out what waits for the host already.
func away(s *selection, e *queue.Entry) bool { return e.Domain != s.agent.now.Load().relay }

// giveBack has mail wait for the host.
func (a *Agent) giveBack(s *selection, chosen []queue.Entry) int {
	return a.decideAll(s, chosen, outcome.Decision{Action: outcome.HandBack, Enhanced: "4.3.0", Reason: "handed back by the admin"})
}

// Return implements control.Backend.
func (a *Agent) Return() control.Return {
	set := a.now.Load()
	r := control.Return{Relay: set.config.Handback.Relay, Done: a.returned.Load(), HostQueue: -1}
	r.Waiting, r.Later = a.queue.AtRelay()
	r.Stuck = a.queue.Stuck()
	if h := a.hostQueue.Load(); h != nil && set.config.Handback.MaxHostQueue > 0 {
		r.HostQueue = h.length
		if time.Now().Before(h.held) {
			r.Held = h.reason(int(set.config.Handback.MaxHostQueue))
		}
	}
	return r
}

// knockEvery is how soon it shows that the host lets us in, or does no more.
const knockEvery = 5 * time.Second

// watchWayBack looks whether this user may connect to the hand-back socket, with no
// connection made. A host that is down is no reason to complain: its mail waits for it.
// One that is just making its socket, as after a reload, is none to write to the log.
func (a *Agent) watchWayBack(ctx context.Context) {
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	told := ""
	for {
		why := a.knock()
		old := a.shutOut.Swap(&why)
		switch {
		case why == "" && told != "":
			a.log.Info("mail can go back to the host again")
			told = ""
		case why != "" && why != told && old != nil && *old == why:
			a.log.Error("mail cannot go back to the host", "reason", why)
			told = why
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// knock says why the hand-back socket cannot be reached; "" if it can, or is none.
func (a *Agent) knock() string {
	path := config.RelaySocket(a.now.Load().config.Handback.Relay)
	if path == "" {
		return ""
	}
	if _, err := alive(path); err != nil {
		return postconf.Shut(path, ownName(), err).String()
	}
	return ""
}

// ownName is the name of the user that we are.
func ownName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// hostQueue is what is known of the host's queue.
type hostQueue struct {
	length int       // -1: it cannot be had
	held   time.Time // nothing goes back before
}

func (h *hostQueue) reason(most int) string {
	return fmt.Sprintf("the host has %d messages in its incoming and active queues; max_host_queue is %d", h.length, most)
}

const (
	// lookEvery is how often the host's queue is counted while mail goes back, as
	// long as that is cheap: what goes there meanwhile is bounded by the rate.
	lookEvery = time.Second
	// lookShare keeps the counting from being a load itself: so many times as long
	// as it took it is left alone.
	lookShare = 20
	// holdFor is the time to the next look after the host was found to have too much.
	holdFor = 5 * time.Second
)

// heedHost holds up what goes back while the host has enough to do. Reading its
// queue takes rights: where they are missing, that is logged once, and only the
// rate bounds what goes there.
func (a *Agent) heedHost(ctx context.Context) {
	var host postconf.HostQueue
	wait, unknown := lookEvery, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = lookEvery
		set := a.now.Load()
		most := int(set.config.Handback.MaxHostQueue)
		if most == 0 || a.queue.Waiting(set.relay) == 0 {
			a.hostQueue.Store(nil)
			continue
		}
		began := time.Now()
		n, err := host.Length(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		wait = max(wait, lookShare*now.Sub(began))
		if err != nil {
			a.hostQueue.Store(&hostQueue{length: -1})
			wait = askHostEvery
			if !unknown {
				unknown = true
				remedy := "add the agent's user to the group postdrop, or let it read Postfix's incoming and active directories"
				if errors.Is(err, postconf.ErrNone) {
					remedy = "none without Postfix; set max_host_queue = 0"
				}
				a.log.Warn("the length of the host's queue is not known, so max_host_queue is not kept; max_message_rate is", "err", err, "remedy", remedy)
			}
			continue
		}
		unknown = false
		h := &hostQueue{length: n}
		if n > most {
			wait = max(wait, holdFor)
			h.held = now.Add(wait + lookEvery) // until after the next look
			a.queue.Clamp(set.relay, elastic.Clamp{Until: h.held, Reason: h.reason(most)})
		}
		a.hostQueue.Store(h)
	}
}
