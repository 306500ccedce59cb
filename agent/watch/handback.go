package watch

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
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/queue"
)

// This file is about the way back to the host MTA. A recipient that takes it moves
// to the lane of the hand-back relay, and the journal says so: it never goes to its
// receiver again, over restarts too. It ends when the host has said 250. What the
// host refuses stays there, and is tried again.

// Return is the state of the way back to the host MTA.
func (w *Watch) Return() control.HandbackStatus {
	set := w.settings.Now()
	r := control.HandbackStatus{Relay: set.Config.Handback.Relay, Done: w.settler.Returned(), HostQueue: -1}
	r.Waiting, r.Later = w.queue.AtHost()
	r.Stuck = w.queue.Stuck()
	if h := w.hostQueue.Load(); h != nil && set.Config.Handback.MaxHostQueue > 0 {
		r.HostQueue = h.length
		if time.Now().Before(h.held) {
			r.Held = h.reason(int(set.Config.Handback.MaxHostQueue))
		}
	}
	return r
}

// knockEvery is how soon it shows that the host lets us in, or does no more.
const knockEvery = 5 * time.Second

// KnockLoop looks whether this user may connect to the hand-back socket, with no
// connection made. A host that is down is no reason to complain: its mail waits for it.
// One that is just making its socket, as after a reload, is none to write to the log.
func (w *Watch) KnockLoop(ctx context.Context) {
	told := ""
	knock := func(time.Time) {
		why := w.knock()
		old := w.shutOut.Swap(&why)
		switch {
		case why == "" && told != "":
			w.log.Info("mail can go back to the host again")
			told = ""
		case why != "" && why != told && old != nil && *old == why:
			w.log.Error("mail cannot go back to the host", "reason", why)
			told = why
		}
	}
	knock(time.Now())
	loop.Every(ctx, knockEvery, knock)
}

// knock says why the hand-back socket cannot be reached; "" if it can, or is none.
func (w *Watch) knock() string {
	path := config.RelaySocket(w.settings.Now().Config.Handback.Relay)
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
	// queueEvery is how often the host's queue is counted while mail goes back, as
	// long as that is cheap: what goes there meanwhile is bounded by the rate.
	queueEvery = time.Second
	// lookShare keeps the counting from being a load itself: so many times as long
	// as it took it is left alone.
	lookShare = 20
	// holdFor is the time to the next look after the host was found to have too much.
	holdFor = 5 * time.Second
)

// QueueLoop holds up what goes back while the host has enough to do. Reading its
// queue takes rights: where they are missing, that is logged once, and only the
// rate bounds what goes there.
func (w *Watch) QueueLoop(ctx context.Context) {
	var host postconf.HostQueue
	wait, unknown := queueEvery, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = queueEvery
		set := w.settings.Now()
		most := int(set.Config.Handback.MaxHostQueue)
		if most == 0 || w.queue.Waiting(set.Relay) == 0 {
			w.hostQueue.Store(nil)
			continue
		}
		found := host != postconf.HostQueue{} // else postconf is asked first where it is, once
		began := time.Now()
		n, err := host.Length(ctx)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		if found {
			wait = max(wait, lookShare*now.Sub(began))
		}
		if err != nil {
			w.hostQueue.Store(&hostQueue{length: -1})
			wait = settingsEvery
			if !unknown {
				unknown = true
				remedy := "add the agent's user to the group postdrop, or let it read Postfix's incoming and active directories"
				if errors.Is(err, postconf.ErrNone) {
					remedy = "none without Postfix; set max_host_queue = 0"
				}
				w.log.Warn("the length of the host's queue is not known, so max_host_queue is not kept; max_message_rate is", "err", err, "remedy", remedy)
			}
			continue
		}
		unknown = false
		h := &hostQueue{length: n}
		if n > most {
			wait = max(wait, holdFor)
			h.held = now.Add(wait + queueEvery) // until after the next look
			w.queue.Clamp(queue.RelayDomain(set.Config.Handback.Relay), elastic.Clamp{Until: h.held, Reason: h.reason(most)})
		}
		w.hostQueue.Store(h)
	}
}
