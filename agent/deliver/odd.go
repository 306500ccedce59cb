package deliver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/manners"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/settle"
	"github.com/millrace/millrace/agent/smtp"
)

// announce tells the queue of the limits that the peer announced, or that were found of it.
func (w *worker) announce() {
	x := w.conn.Extensions()
	recipients := x.RcptMax
	if n := w.deliverer.manners.Of(endpoint(w.peer), time.Now()).Recipients; n > 0 && (recipients == 0 || n < recipients) {
		recipients = n
	}
	w.session.Announced(x.MailMax, recipients)
}

// learn takes in what a transaction showed of how the host must be spoken to: that it does
// not know BDAT, or not groups of commands, or that a message has more recipients than it
// takes in one transaction.
// Those that are too many go in the next one at once.
func (w *worker) learn(r *settle.Settlement, result smtp.Result, err error) {
	m, at, now := w.deliverer.manners, endpoint(w.peer), time.Now()
	e, ok := errors.AsType[*smtp.Error](err)
	if ok && e.Chunk {
		w.deliverer.log.Info("BDAT failed, the next message goes by DATA", "relay", w.peer.Relay(), "err", err)
		m.NoChunking(at, now)
	} else if ok && e.Group {
		w.deliverer.log.Info("PIPELINING failed, the next connection does without", "relay", w.peer.Relay(), "err", err)
		m.NoPipelining(at, now)
	}
	w.learnTLS(r, err)
	taken := 0 // by their RCPT
	for _, x := range result.Recipients {
		if x.Err == nil && x.Stage > smtp.StageRcpt {
			taken++
		}
	}
	fits := taken
	for i, x := range result.Recipients {
		if x.Fate != smtp.Refused || r.Results[i].Decision.Class != outcome.ClassTooManyRecipients {
			continue
		}
		switch {
		case x.Stage == smtp.StageRcpt && x.Reply.Code == 421:
			// It closed over that, and took none: those before it fit.
			if fits = i; i == 0 || err == nil {
				continue
			}
			for k := range r.Results {
				if k != i && result.Recipients[k].Fate == smtp.NotOffered && result.Recipients[k].Err == nil {
					r.Results[k].Untried, r.Results[k].Again = true, true
				}
			}
		case x.Stage == smtp.StageRcpt && taken > 0:
		case x.Stage > smtp.StageRcpt && taken > 1:
			fits = taken / 2 // it does not say how many
		default:
			continue // of a single one it is no word on the number
		}
		r.Results[i].Untried, r.Results[i].Again = true, true
	}
	if slices.ContainsFunc(r.Results, func(f settle.Result) bool { return f.Again }) {
		m.TooMany(at, fits, now)
		w.announce()
	}
}

// learnTLS takes in whether the first transaction of a connection through opportunistic TLS
// had its replies. One that was lost with none is a sign that TLS breaks behind the
// handshake: smtp(8) goes on in the clear then, with mail that has waited (smtp_trouble.c).
func (w *worker) learnTLS(r *settle.Settlement, err error) {
	if _, secret := w.conn.TLS(); !secret || w.sent > 1 {
		return
	}
	d, at := w.deliverer, endpoint(w.peer)
	if err == nil {
		d.manners.TLSHeld(at)
		return
	}
	e, ok := errors.AsType[*smtp.Error](err)
	if !ok || e.Reply.Code != 0 || e.Chunk || e.Group || errors.Is(err, smtp.ErrContent) || errors.Is(err, smtp.ErrAbandoned) || errors.Is(err, context.Canceled) {
		return
	}
	o := d.settings.Now().Options(r.Route, w.peer, func(string) {})
	if mayWeaken(&o) && d.manners.TLSBroke(at, time.Now()) {
		d.log.Info("TLS breaks in transactions, trying "+manners.Clear.String(), "relay", w.peer.Relay(), "err", err)
	}
}

// trouble is what the deferral of all of a transaction's recipients reads as.
type trouble struct {
	any     bool // it is not for a reason of theirs, nor for speed
	host    bool // another host may take them
	closing bool // it was a 421 that does not say why
	text    string
}

// ofSite and ofHost are the classes of deferrals by what they are about. What reads
// as greylisting, as a throttle or as distrust is in neither: another host says the same,
// or must not be asked.
var (
	ofSite = []outcome.Class{
		outcome.ClassSystem, outcome.ClassUndefined, outcome.ClassNetwork, outcome.ClassProtocol, outcome.ClassPolicy, outcome.ClassReputation,
	}
	ofHost = ofSite[:4]
)

// troubleOf reads a transaction; err is the connection's.
func troubleOf(r *settle.Settlement, result smtp.Result, err error) (t trouble) {
	if r.Route.Handback || errors.Is(err, smtp.ErrContent) || errors.Is(err, context.Canceled) {
		return trouble{} // the host's own queue is another matter, and so is what we cut short
	}
	t = trouble{any: true, host: true}
	seen := false
	for i := range r.Results {
		f := &r.Results[i]
		if f.Again {
			return trouble{} // others were taken
		}
		if f.Untried {
			continue
		}
		seen = true
		if f.Decision.Action != outcome.Retry || !slices.Contains(ofSite, f.Decision.Class) {
			return trouble{}
		}
		// The site may have taken it: no more of its mail is to be sent twice.
		t.any = t.any && result.Recipients[i].Fate != smtp.InDoubt
		t.host = t.host && slices.Contains(ofHost, f.Decision.Class)
		t.closing = t.closing || f.Reply.Code == 421
		t.text = f.Reply.Text
	}
	if !seen {
		return trouble{}
	}
	return t
}

// wordless says whether a refusal of a connect does not say what is too much.
func wordless(d *outcome.Decision) bool {
	return d.Class != outcome.ClassConnections && d.Class != outcome.ClassRateLimited && d.Class != outcome.ClassReputation
}

// refusesAll says whether the connection is of no use, as all of its first transactions were
// deferred: postscreen takes no mail on a client's first one, whatever is sent.
func (w *worker) refusesAll(trouble bool) bool {
	if !trouble {
		w.refused = -1 << 30
	}
	w.refused++
	return w.refused >= fewRefused
}

// fewRefused is how many transactions in a row show that a connection takes none.
const fewRefused = 3

// errElsewhere is why a connection ends that works, as another one may do better.
var errElsewhere = errors.New("another connection may take the mail")

// stallAfter is how long a transaction goes on undisturbed.
const stallAfter = 30 * time.Second

// watch gives up the transaction that begins now when it takes long, others wait for a
// session, and its content is not on its way yet. The caller calls unwatch when it has
// ended.
func (w *worker) watch() {
	w.since.Store(time.Now().UnixNano())
	if w.stalled == nil {
		w.stalled = time.AfterFunc(time.Hour, w.patience) // its time follows, so that patience sees it
	}
	w.stalled.Reset(stallAfter)
}

func (w *worker) unwatch() {
	w.since.Store(0)
	w.stalled.Stop()
}

// patience is what becomes of a transaction that has taken stallAfter, and each time that
// long again.
func (w *worker) patience() {
	since := w.since.Load()
	if since == 0 {
		return
	}
	wait := stallAfter - time.Since(time.Unix(0, since))
	if wait <= 0 { // else it is the next one already
		if !w.deliverer.queue.MayKeepWaiting(w.session) && w.conn.Abandon() {
			return
		}
		wait = stallAfter
	}
	w.stalled.Reset(wait)
}
