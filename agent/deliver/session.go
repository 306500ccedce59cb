package deliver

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/dialogue"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
)

// Session is the life of one connection. It holds no mail until it is up.
func (d *Deliverer) Session(s *queue.Session) {
	ctx := d.stop
	rt := s.Route()
	began := time.Now()
	said := d.dialogues.Session(rt.Site)
	conn, p, sig, err := d.connectPatiently(s, rt, said)
	if err != nil {
		said.Close(err)
		if d.opening.Err() != nil || settings.Ours(err) {
			s.Untried()
		}
		d.queue.Leave(s, nil, sig, queue.ReasonOf(err))
		return
	}
	w := worker{deliverer: d, said: said, conn: conn, peer: p, names: p.Names(), connected: time.Since(began)}
	w.session = s
	w.announce()
	d.queue.Opened(s, sig)
	var done []queue.Settled
	sig = sig[:0]
	for {
		job, err := d.queue.Step(ctx, s, done, sig)
		if err != nil {
			conn.Quit(ctx)
			said.Close(nil)
			d.queue.Leave(s, nil, append(sig[:0], elastic.Signal{Kind: elastic.Closed, Began: began}), "")
			return
		}
		rt = s.Route() // a reload may have changed the policy
		done, sig, err = w.transact(ctx, rt, job, sig[:0])
		if err != nil {
			if errors.Is(err, errElsewhere) {
				conn.Quit(ctx)
			} else {
				conn.Close()
			}
			said.Close(err)
			if n := len(sig); n == 0 || sig[n-1].Kind != elastic.Closed && sig[n-1].Kind != elastic.Lost {
				sig = append(sig, elastic.Signal{Kind: elastic.Lost, Began: began})
			}
			d.queue.Leave(s, done, sig, queue.ReasonOf(err))
			return
		}
	}
}

// connectPatiently connects, for as long as the queue lets a connect that hangs go on.
func (d *Deliverer) connectPatiently(s *queue.Session, rt queue.Route, said *dialogue.Session) (c *smtp.Conn, p settings.Host, sig []elastic.Signal, err error) {
	ctx, cancel := context.WithCancelCause(d.opening)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c, p, sig, err = d.connect(ctx, rt, s.Place(), said)
	}()
	timer := time.NewTimer(queue.HangAfter)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return c, p, sig, err
		case <-timer.C:
			if wait := d.queue.MayKeepConnecting(s); wait > 0 {
				timer.Reset(wait)
			} else {
				cancel(errAbandoned)
			}
		}
	}
}

// errAbandoned is why a connect ends for which the queue has no more patience.
var errAbandoned = errors.New("others wait to be called")

// worker carries what one session reuses from transaction to transaction.
type worker struct {
	deliverer *Deliverer
	session   *queue.Session
	conn      *smtp.Conn
	said      *dialogue.Session
	peer      settings.Host
	names     settings.HostNames
	last      time.Time     // when the last transaction ended
	connected time.Duration // what the connect took; part of the first transaction's delay
	sent      int
	used      bool         // a transaction has had a recipient delivered
	refused   int          // transactions in a row that were deferred, from the first; far below 0 once one was not
	since     atomic.Int64 // unix nanoseconds: when the transaction began; 0: there is none
	stalled   *time.Timer  // calls patience
	tx        smtp.Tx
	events    []spool.Event
	done      []queue.Settled
}

// transact sends one job. The error says that the connection is of no more use.
func (w *worker) transact(ctx context.Context, rt queue.Route, job queue.Job, sig []elastic.Signal) ([]queue.Settled, []elastic.Signal, error) {
	d := w.deliverer
	began := time.Now()
	closed := elastic.Signal{Kind: elastic.Closed, Began: began}
	if err := w.check(began); err != nil {
		// Closed while it stood idle: nothing was offered, the mail goes back uncounted.
		return nil, append(sig, closed), err
	}
	e, content, err := d.store.Message(job.ID)
	if err != nil {
		return d.settler.Unreadable(job, rt.Queue, e, err), sig, nil
	}
	defer content.Close()
	set := d.settings.Now() // one for the whole transaction: a reload in between changes nothing of it
	w.done = w.done[:0]
	if job.Items, w.done = skipMisplaced(set, e, job, rt, w.done); len(job.Items) == 0 {
		return w.done, sig, nil
	}
	if job.Items, w.done = d.settler.SkipSuppressed(e, job, rt, w.done); len(job.Items) == 0 {
		return w.done, sig, nil
	}
	d.prepare(&w.tx, e, content, job, rt, set.Config)
	w.watch()
	w.said.Begin(job.ID, e, w.tx.Recipients)
	result, err := w.conn.Send(ctx, &w.tx)
	w.said.End(err)
	w.unwatch()
	w.sent++
	w.last = time.Now()
	took := w.last.Sub(began)
	r := d.settler.Begin(e, job, rt)
	r.Source = w.conn.LocalAddr()
	r.Host, r.Names, r.Reuse, r.Connect, r.Transmit = w.peer, w.names, w.sent, w.connected, took
	r.Used = w.used
	w.connected = 0
	if errors.Is(err, spool.ErrDamaged) {
		return append(w.done, d.settler.Unreadable(job, rt.Queue, e, err)...), sig, err
	}
	w.events = w.events[:0]
	for i, item := range job.Items {
		d.read(set, &r, item, result.Recipients[i], err)
	}
	w.learn(&r, result, err)
	trouble := troubleOf(&r, result, err)
	moves := trouble.host && d.queue.Elsewhere(w.session, trouble.closing)
	if moves {
		for i := range r.Results {
			r.Results[i].Untried = true
		}
		err = errElsewhere
	}
	var second *settle.Settlement
	asked := false
	if !moves && err == nil {
		second, asked = w.askSecond(ctx, set, &r, result)
	}
	w.done, w.events = r.Settle(w.done, w.events)
	if second != nil {
		w.done, w.events = second.Settle(w.done, w.events[:0])
	}
	if moves {
		return w.done, append(sig, elastic.Signal{Kind: elastic.Lost, Began: began, Text: trouble.text}), err
	}
	x := evidence(&r, began)
	x.Trouble = trouble.any && second == nil
	sig = append(sig, x)
	if err == nil && (w.refusesAll(x.Trouble) || asked) {
		err = errElsewhere
	}
	if err == nil && w.used && x.Kind == elastic.Closed {
		err = errElsewhere // left open by the server, which takes no more on it
	}
	w.used = w.used || slices.ContainsFunc(r.Results, func(f settle.Result) bool { return f.Decision.Action == outcome.Deliver })
	if err == nil && w.insistsOnTLS(r.Results) {
		return w.done, append(sig, closed), errInsists
	}
	return w.done, sig, err
}

// skipMisplaced takes those of a job's recipients out that were never tried, and leave from
// elsewhere since a reload: until its first try the pools in force hold for a recipient. It adds
// to done what the queue must know of them, and returns the others.
func skipMisplaced(set *settings.Settings, e *spool.Envelope, job queue.Job, rt queue.Route, done []queue.Settled) ([]queue.Item, []queue.Settled) {
	if rt.Handback || e.Origin != spool.Diverted {
		return job.Items, done
	}
	var others []queue.Item
	misplaced := false
	for i, item := range job.Items {
		from := job.From
		if item.Tries == 0 {
			from = set.FromOf(e, int(item.Ordinal), job.Domain)
		}
		switch {
		case from != job.From && !set.Overflowed(from, job.From, job.Domain, rt.Queue):
			if !misplaced {
				misplaced, others = true, append(others, job.Items[:i]...)
			}
			done = append(done, queue.Settled{Handle: item.Handle, How: queue.FromElsewhere, State: spool.State{From: from}})
		case misplaced:
			others = append(others, item)
		}
	}
	if !misplaced {
		return job.Items, done
	}
	return others, done
}

var errInsists = errors.New("the host takes no mail without TLS")

// insistsOnTLS says that this connection is in the clear only because a handshake
// failed lately, and that the host takes no mail that way. The next connect tries
// TLS again.
func (w *worker) insistsOnTLS(results []settle.Result) bool {
	if _, ok := w.conn.TLS(); ok {
		return false
	}
	for _, f := range results {
		if f.Decision.Class == outcome.ClassTLS {
			return w.deliverer.manners.TLSWanted(endpoint(w.peer))
		}
	}
	return false
}

// fresh is how long after a transaction a connection is taken to be up still.
const fresh = time.Second

// check looks whether the connection is still up. One that has just answered is
// not looked at: should it be gone, MAIL shows it and costs nothing. With BDAT the
// message is on its route by then, and would be in doubt.
func (w *worker) check(now time.Time) error {
	if now.Sub(w.last) < fresh && !w.conn.Extensions().Chunking {
		return nil
	}
	return w.conn.Check()
}

// prepare fills the transaction. The Received field is made anew each time; it
// depends only on the envelope, the recipients and the configuration, so every try for
// these sends the same bytes.
func (d *Deliverer) prepare(tx *smtp.Tx, e *spool.Envelope, content io.Reader, job queue.Job, rt queue.Route, c *config.Config) {
	tx.AsTaken = rt.Handback
	tx.Sender, tx.Args, tx.EightBit, tx.Content = e.Sender, e.Args, e.EightBit, content
	tx.Prefix = nil
	if e.Origin == spool.Diverted {
		shown := *e
		if c.Agent.HideClient {
			shown.Helo, shown.ClientName, shown.ClientAddr = "", "", ""
		}
		to := make([]uint32, 0, len(job.Items))
		for _, item := range job.Items {
			to = append(to, item.Ordinal)
		}
		tx.Prefix = trace.Received(&shown, job.ID, c.Hostname, d.keys.Load(), to)
	}
	tx.Size = e.Size + int64(len(tx.Prefix))
	tx.Recipients = tx.Recipients[:0]
	for _, item := range job.Items {
		r := e.Recipients[item.Ordinal]
		tx.Recipients = append(tx.Recipients, smtp.Rcpt{Address: r.Address, Args: r.Args})
	}
}
