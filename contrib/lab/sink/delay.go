package sink

import (
	"net"
	"time"
)

// delayLine is a connection whose writes arrive later, in order, as if it were
// long: each write is one flight. It lies under TLS too, so a handshake costs
// its round trips. Reads are not delayed, so the whole round trip is in the
// replies. Without latency a write is a write and nothing more.
type delayLine struct {
	net.Conn
	rtt    func() time.Duration
	closed <-chan struct{} // nothing waits any longer once this is closed
	queue  chan flight
	idle   chan struct{} // closed when the queue was closed and is empty
}

type flight struct {
	due time.Time
	p   []byte
}

// Write sends p at its time. Only one goroutine may call Write and drain. An
// error of a delayed write is not told: the reader of the connection sees it.
func (d *delayLine) Write(p []byte) (int, error) {
	rtt := d.rtt()
	if rtt == 0 && d.queue == nil {
		return d.Conn.Write(p)
	}
	if d.queue == nil {
		d.queue = make(chan flight, 16)
		d.idle = make(chan struct{})
		go d.run()
	}
	d.queue <- flight{time.Now().Add(rtt), append([]byte(nil), p...)}
	return len(p), nil
}

func (d *delayLine) run() {
	defer close(d.idle)
	broken := false
	for f := range d.queue {
		pause(d.closed, time.Until(f.due))
		if !broken {
			_, err := d.Conn.Write(f.p)
			broken = err != nil
		}
	}
}

// drain waits until all is written. Nothing may be written after it.
func (d *delayLine) drain() {
	if d.queue != nil {
		close(d.queue)
		<-d.idle
	}
}

// pause waits, but no longer than until closed is closed; it says whether the
// time has passed.
func pause(closed <-chan struct{}, t time.Duration) bool {
	if t <= 0 {
		return true
	}
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-closed:
		return false
	}
}
