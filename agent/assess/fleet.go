package assess

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/millrace/millrace/agent/feedback"
)

const (
	// handWithin is how long the host that sent a message may take over a report on it, and
	// awayFor how long it is not asked after it took none: the reports of others wait behind.
	handWithin = 5 * time.Second
	awayFor    = time.Minute
)

// ErrNotOurs says that a report is about no mail of this host.
var ErrNotOurs = errors.New("no mark of this host came back with it")

// handOver gives a report to the host that sent what it is about, and says whether that took
// it. One whose answer was lost is counted here, too: twice is less harm than never.
func (a *Assessor) handOver(ctx context.Context, node string, message []byte) bool {
	if a.HandOver == nil {
		return false
	}
	now := time.Now()
	a.mu.Lock()
	at, away := a.away[node]
	a.mu.Unlock()
	if away && now.Sub(at) < awayFor {
		return false
	}
	ctx, done := context.WithTimeout(ctx, handWithin)
	defer done()
	err := a.HandOver(ctx, node, message)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		delete(a.away, node)
		return true
	}
	a.away[node] = now
	a.Log.Warn("a report on mail of another node is judged here", "node", node, "err", err)
	return false
}

// Receive takes a report from another host of the fleet, durable when it returns nil: it
// waits in the box. ErrNotOurs, and ErrNone of package feedback, say that it is not for this
// host to judge.
func (a *Assessor) Receive(message []byte, now time.Time) error {
	r, err := feedback.Parse(message)
	if err != nil {
		return err
	}
	m, ok := newestMark(a.marks(a.Settings.Now()), r.Received)
	if !ok || m.Node != "" {
		return ErrNotOurs
	}
	_, err = a.Box.Put(message, m.Copy(), now)
	return err
}

// Receiver serves Receive to other hosts: the body of a request is the message.
func (a *Assessor) Receiver() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, feedback.MaxSize))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		if err := a.Receive(b, time.Now()); err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		}
	})
}
