// Package inject sends test mail into an MTA and keeps a ledger of what the
// MTA took.
//
// A [Generator] makes messages, the same for the same seed; any other function from a
// number to a [Message] serves as well. An [Injector] sends them over parallel pipelined
// connections and writes each recipient whose message was answered with 250 at
// its final dot into a ledger. After the mail has arrived, [ledger.Compare] holds that
// ledger against the receivers'.
package inject

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

// Message is a message to send.
type Message struct {
	Sender     string   // envelope sender; "" is the null sender
	Recipients []string // envelope recipients
	// Content has CRLF line ends and no dot stuffing. Its last line may lack
	// its CRLF: then the one before the final dot ends it. For a comparison it
	// should begin with a [ledger.IDHeader] line.
	Content []byte
}

// Injector sends messages. Addr must be set.
type Injector struct {
	Addr          string         // host:port of the SMTP server
	Connections   int            // in parallel; default 1
	Rate          float64        // messages a second, all together; 0: as fast as they go
	PerConnection int            // messages before a new connection; 0: no limit
	Helo          string         // default injector.test
	Timeout       time.Duration  // for a connect, and for each message; default 1m
	Retry         time.Duration  // pause before what was deferred or broke off is offered again; 0: offered once
	Ledger        *ledger.Ledger // written to; default: a new one
}

// Result counts what became of the messages.
type Result struct {
	Ledger     *ledger.Ledger
	Messages   int           // answered with 250, for some of their recipients at least; each once
	Recipients int           // answered with 250
	Rejected   int           // recipients refused for good, by themselves or with their message
	Deferred   int           // recipients refused for now and given up
	Broken     int           // recipients given up since the connection failed
	Retries    int           // offers after the first, of any recipients of a message
	Took       time.Duration // from start to end
	Err        error         // the last error or refusal, as an example
}

// Rate is the number of messages a second.
func (r *Result) Rate() float64 { return float64(r.Messages) / r.Took.Seconds() }

// Run sends the messages 0 to n-1 that the function makes; it calls it from
// several goroutines. The error is the context's, when that ended first; the
// result is valid all the same.
func (in *Injector) Run(ctx context.Context, n int, message func(i int) *Message) (*Result, error) {
	settings := *in
	if settings.Helo == "" {
		settings.Helo = "injector.test"
	}
	if settings.Timeout <= 0 {
		settings.Timeout = time.Minute
	}
	if settings.Ledger == nil {
		settings.Ledger = new(ledger.Ledger)
	}
	run := &run{Injector: settings, start: time.Now(), result: Result{Ledger: settings.Ledger}}
	var next atomic.Int64
	var workers sync.WaitGroup
	for number := range max(in.Connections, 1) {
		workers.Go(func() {
			w := &worker{run: run, number: uint64(number + 1)}
			defer w.quit()
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n || !run.await(ctx, i) {
					return
				}
				w.deliver(ctx, message(i))
			}
		})
	}
	workers.Wait()
	run.result.Took = time.Since(run.start)
	return &run.result, ctx.Err()
}

// run is what the workers of one Run share.
type run struct {
	Injector
	start time.Time

	mu     sync.Mutex
	result Result
}

// await waits until message i is due.
func (r *run) await(ctx context.Context, i int) bool {
	if r.Rate == 0 {
		return true
	}
	due := r.start.Add(time.Duration(float64(i) / r.Rate * float64(time.Second)))
	return sleep(ctx, time.Until(due))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *run) count(f func(*Result)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.result)
}

// worker is one connection at a time.
type worker struct {
	*run
	number uint64
	conn   *conn
	digest ledger.Digest
	took   bool // something of the message that is delivered now
}

// deliver offers a message until all its recipients are settled.
func (w *worker) deliver(ctx context.Context, m *Message) {
	recipients := m.Recipients
	w.took = false
	for {
		left, err := w.offer(ctx, m, recipients)
		if err != nil {
			w.count(func(r *Result) { r.Err = err })
		}
		if len(left) == 0 {
			return
		}
		if w.Retry == 0 || !sleep(ctx, w.Retry) {
			w.count(func(r *Result) {
				if errors.Is(err, errDeferred) {
					r.Deferred += len(left)
				} else {
					r.Broken += len(left)
				}
			})
			return
		}
		w.count(func(r *Result) { r.Retries++ })
		recipients = left
	}
}

var errDeferred = errors.New("inject: deferred")

// offer does one transaction and gives the recipients that may be offered
// again. Without an error there are none.
func (w *worker) offer(ctx context.Context, m *Message, recipients []string) (left []string, err error) {
	if w.conn != nil && w.PerConnection > 0 && w.conn.messages >= w.PerConnection {
		w.quit()
	}
	if w.conn == nil {
		if w.conn, err = dial(ctx, &w.Injector); err != nil {
			return recipients, fmt.Errorf("inject: connect: %w", err)
		}
	}
	w.conn.messages++
	t := transaction{message: m, recipients: recipients}
	started := time.Now()
	err = w.conn.send(&t, w.Timeout)
	if err != nil || t.closing {
		w.conn.close()
		w.conn = nil
	}
	w.count(func(r *Result) {
		r.Rejected += t.rejected
		if t.outcome == taken {
			if !w.took {
				r.Messages++
			}
			r.Recipients += len(t.accepted)
			w.took = true
		}
	})
	if t.outcome == taken || t.outcome == doubtful {
		w.record(m, &t, started)
	}
	left = t.deferred
	if t.outcome == unsettled || t.outcome == doubtful {
		left = append(left, t.accepted...)
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%w: %s", errDeferred, t.reply)
	} else if err == nil && t.rejected > 0 {
		err = fmt.Errorf("inject: rejected: %s", t.reply)
	}
	return left, err
}

// record writes what the server has taken, or may have.
func (w *worker) record(m *Message, t *transaction, started time.Time) {
	w.digest.Reset()
	w.digest.Write(m.Content)
	if !endsLine(m.Content) {
		w.digest.Write([]byte("\r\n"))
	}
	id, sum := w.digest.Sum()
	entry := ledger.Message{
		ID: id, Sender: []byte(m.Sender), Hash: sum, Time: started, Conn: w.number,
		Size: w.digest.Size(), Unanswered: t.outcome == doubtful,
	}
	for _, r := range t.accepted {
		entry.Recipients = append(entry.Recipients, []byte(r))
	}
	w.Ledger.Add(&entry)
}

func (w *worker) quit() {
	if w.conn != nil {
		w.conn.quit()
		w.conn = nil
	}
}
