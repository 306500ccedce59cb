package smtp

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// wire is the connection under the dialogue: every wait on it has a deadline
// and ends when the bound context does.
type wire struct {
	raw net.Conn // TCP
	nc  net.Conn // what is spoken on: raw, or TLS over it

	ctx     context.Context // the one bound
	timeout time.Duration   // of each line of the reply awaited
	armed   bool            // its deadline is set
	latest  time.Time       // no deadline of the reply is later; zero: none was set yet

	mu   sync.Mutex
	turn int             // which binding is in force
	done <-chan struct{} // its context's
	stop func() bool
}

// bind lets ctx interrupt what follows. The binding outlives the call: sessions
// pass the same context again and again, and then nothing needs to be done.
func (w *wire) bind(ctx context.Context) {
	w.ctx = ctx
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Done() == w.done {
		return
	}
	w.unbind()
	if ctx.Done() == nil {
		return
	}
	w.done = ctx.Done()
	turn := w.turn
	w.stop = context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.turn == turn {
			_ = w.raw.SetDeadline(time.Unix(1, 0))
		}
	})
}

// release ends the binding: its context touches no later deadline.
func (w *wire) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unbind()
}

func (w *wire) unbind() {
	if w.stop != nil {
		w.stop()
		w.turn++
		w.stop, w.done = nil, nil
	}
}

// lineTimes is how many times the time of one line a reply of many lines has.
const lineTimes = 3

// await gives the reads that follow d, counted from the first of them that reaches the
// network.
func (w *wire) await(d time.Duration) { w.timeout, w.armed, w.latest = d, false, time.Time{} }

// goOn gives the next line of a reply the same time again. There are servers that keep a
// client waiting by one line after the other, before they take its mail; smtp(8) has a time
// limit for each read alone. Here there is one for the whole reply, too.
func (w *wire) goOn() { w.armed = false }

// Read reads under the deadline of await.
func (w *wire) Read(p []byte) (int, error) {
	if !w.armed {
		w.armed = true
		end := time.Now().Add(w.timeout)
		if w.latest.IsZero() {
			w.latest = end.Add((lineTimes - 1) * w.timeout)
		}
		if end.After(w.latest) {
			end = w.latest
		}
		if err := w.nc.SetReadDeadline(end); err != nil {
			return 0, err
		}
	}
	// Looked at after the deadline was set: a cancellation before this line
	// is seen here, one after it sets a deadline that stands.
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.nc.Read(p)
	return n, w.cause(err)
}

// write writes p within d.
func (w *wire) write(p []byte, d time.Duration) (int, error) {
	if err := w.nc.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	if err := w.ctx.Err(); err != nil { // as in Read
		return 0, err
	}
	n, err := w.nc.Write(p)
	return n, w.cause(err)
}

// handshake brings TLS up within d.
func (w *wire) handshake(tc *tls.Conn, d time.Duration) error {
	if err := w.raw.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if err := w.ctx.Err(); err != nil { // as in Read
		return err
	}
	if err := tc.Handshake(); err != nil {
		return w.cause(err)
	}
	w.nc = tc
	return nil
}

// cause names the context's end where it is what made err.
func (w *wire) cause(err error) error {
	if err != nil && w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	return err
}
