package sim

import "time"

// host is the host MTA beside the agent: it sends mail of its own to the same
// receiver from the same address, one message a connection.
type host struct {
	sent, refused []time.Duration
}

// share of its connections were refused from a time on.
func (h *host) share(from time.Duration) float64 {
	const end = time.Duration(1<<63 - 1)
	return ratio(between(h.refused, from, end), between(h.sent, from, end))
}

// hostSends lets the host send a message from time to time, and the milter tell
// the controller.
func (w *world) hostSends() {
	every := float64(w.kind.HostEvery)
	if x, ok := w.kind.HostPace.at(w.clock.now); ok {
		every /= x
	}
	wait := time.Duration(w.clock.rng.ExpFloat64() * every)
	w.clock.after(wait, func() {
		w.hostSends()
		w.host.sent = append(w.host.sent, w.clock.now)
		if !w.kind.HostUntold {
			w.senders[0].hostMail()
		}
		r := w.receiver
		w.clock.after(r.RTT*3/2, func() {
			h := 0
			if r.HostLimit != nil {
				h = w.clock.rng.IntN(r.Receiver.hosts())
			}
			p := r.place(0, h)
			if r.refuses(p, 1) {
				w.host.refused = append(w.host.refused, w.clock.now)
				return
			}
			r.enter(p)
			w.clock.after(hostLife(&r.Receiver), func() { r.leave(p) })
		})
	})
}

// hostLife is how long a connection with one message takes a slot: greeting, EHLO,
// the message, QUIT.
func hostLife(r *Receiver) time.Duration { return r.RTT*5/2 + r.Service }
