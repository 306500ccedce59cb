package watch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/listen"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
)

const (
	// silence is how long a connection may stay without a request.
	silence = 5 * time.Second
)

// ListenHTTP opens the listeners of [agent.http].
func (w *Watch) ListenHTTP() (list []*listen.Listener, err error) {
	for _, at := range w.settings.Now().Config.Agent.HTTP.Listen {
		l, err := listen.Open(at)
		if err != nil {
			for _, l := range list {
				l.Close()
			}
			return nil, fmt.Errorf("agent.http: listen %s: %w", at, err)
		}
		list = append(list, listen.Bound(l, settings.MaxHTTP, w.log))
	}
	return list, nil
}

// ServeListener serves /healthz, /readyz, /metrics and the status page on one listener until ctx
// ends. The first two answer 200 with "ok", or 503 with a reason on each line; lines that
// begin with "warning: " change nothing of that. None of them tells a mail address.
func (w *Watch) ServeListener(ctx context.Context, l *listen.Listener) {
	s := newServer(ctx, w.handler(), l, w.log)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		w.log.Error("HTTP server failed", "err", err)
	}
}

func newServer(ctx context.Context, h http.Handler, l *listen.Listener, log *slog.Logger) *http.Server {
	return &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx }, // of readers that stay
		Handler:     h, ConnState: l.State,
		ReadHeaderTimeout: silence, IdleTimeout: silence,
		ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func (w *Watch) handler() http.Handler {
	own := http.NewServeMux()
	own.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, nil, nil) })
	own.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, w.NotReady(), w.Warnings()) })
	own.Handle("GET /metrics", whole(w.metrics.Handler(w.log)))
	guarded := w.ownNamesOnly(own)
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, guarded)
	}
	mux.Handle("/", w.web)
	return withoutBody(mux)
}

// ownNamesOnly refuses what is asked for under a name that is not ours, as the status
// page does: a page elsewhere whose name was made to point here (DNS rebinding) would
// read it. A browser always sends Host; who sends none is a balancer or a script.
func (w *Watch) ownNamesOnly(next http.Handler) http.Handler {
	var told sync.Once
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host == "" || w.web.Known(r.Host) {
			next.ServeHTTP(rw, r)
			return
		}
		told.Do(func() {
			w.log.Warn("refused over HTTP, under a name that is not ours; remedy: use an address, or list the name in [agent.http] hostnames",
				"host", fmt.Sprintf("%.100q", r.Host), "path", r.URL.Path)
		})
		http.Error(rw, "this is not served under that name; remedy: use the address, or list the name in [agent.http] hostnames",
			http.StatusMisdirectedRequest)
	})
}

// withoutBody does not wait for the body of a request: nothing here needs one, and one
// that never comes would keep the connection busy.
func withoutBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			w.Header().Set("Connection", "close")
			http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}
		next.ServeHTTP(w, r)
	})
}

// whole answers once all of the answer is there: a reader that is slow holds up only
// himself, not one of the few places to collect it.
func whole(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &buffered{ResponseWriter: w, code: http.StatusOK}
		next.ServeHTTP(b, r)
		w.WriteHeader(b.code)
		w.Write(b.body.Bytes())
	})
}

type buffered struct {
	http.ResponseWriter
	code int
	body bytes.Buffer
}

func (b *buffered) WriteHeader(code int)        { b.code = code }
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }

// answer is 503 with what is wrong, or 200 with "ok"; warnings follow either.
func answer(w http.ResponseWriter, wrong, warnings []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if len(wrong) == 0 {
		fmt.Fprintln(w, "ok")
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	for _, reason := range wrong {
		printable.Fprintln(w, reason)
	}
	for _, text := range warnings {
		printable.Fprintln(w, "warning: "+text)
	}
}

// begun says since when, if that is known.
func begun(since time.Time) string {
	if since.IsZero() {
		return ""
	}
	return " since " + since.Format(time.RFC3339)
}

// transferSlow is how long a batch of mail between nodes may be open until an admin should look;
// tries follow each other within a minute.
const transferSlow = 10 * time.Minute

// Warnings says what an admin should look at, though neither mail nor its accounting in the
// spool is in danger.
func (w *Watch) Warnings() []string {
	var list []string
	if why := w.unsaved.Load(); why != nil && *why != "" {
		list = append(list, *why)
	}
	for _, why := range []string{w.outcomes.Trouble(), w.assessor.Trouble(), w.orders.BreakerTrouble()} {
		if why != "" {
			list = append(list, why)
		}
	}
	list = append(list, w.webhooks.Trouble()...)
	st := w.fleet.Status()
	list = append(list, st.Warnings()...)
	if common := w.orders.Common(); common != nil {
		list = append(list, common.Trouble()...)
	}
	list = append(list, w.peers()...)
	for _, t := range w.transfers() {
		if age := time.Since(t.Since); age > transferSlow {
			list = append(list, fmt.Sprintf("mail on its way between this node and %s has waited for %s (transfer %s): %s; millrace move --list shows it",
				t.Node, age.Round(time.Minute), t.ID, cmp.Or(t.Why, "it is under way")))
		}
	}
	if err := w.quotas.Failed(); err != nil {
		list = append(list, "streams that have quotas wait: "+err.Error())
	}
	if err := w.warmup.Failed(); err != nil {
		list = append(list, "addresses that warm up send nothing new, or a restart would know less of them: "+err.Error())
	}
	for _, x := range w.Warmups() {
		switch {
		case x.Lost && x.Done == "":
			list = append(list, "address "+x.Address+" sends nothing new to "+x.Queue+" today: what was known of its warm-up was damaged (the log says more)")
		case x.HeldDays > 0:
			list = append(list, "the warm-up of "+x.Address+" at "+x.Queue+" does not go on: "+x.Stays())
		}
	}
	for _, x := range w.Sources() {
		if x.Absent {
			list = append(list, "source address "+x.Address+" cannot be bound: its mail leaves from others of its [[pool]], or waits where there are none")
		}
	}
	for _, e := range w.blocked() {
		list = append(list, "source address "+e.Address+" is "+e.Blocks())
	}
	return public(list)
}

// SetUnsaved says why what is kept in state_directory cannot be written; nil: it can.
func (w *Watch) SetUnsaved(err error) {
	why := ""
	if err != nil {
		why = "what is learned of receivers, and orders, will not outlive this run: " + err.Error() + "; see that the agent may write to state_directory (millrace check)"
	}
	w.unsaved.Store(&why)
}

// NotReady says what an admin must look at. Nothing here stops mail.
func (w *Watch) NotReady() []string {
	var wrong []string
	if !w.loaded.Load() {
		wrong = append(wrong, "the spool is being read")
	}
	if err := w.Unseen(); err != nil {
		wrong = append(wrong, err.Error()+"; the log says why")
	}
	if since, on, err := spool.Draining(w.settings.Now().Config.Spool.Directory); err != nil {
		wrong = append(wrong, err.Error())
	} else if on {
		wrong = append(wrong, "the spool is being drained"+begun(since)+": the milter diverts nothing until millrace drain --end")
	}
	for _, n := range w.settings.Now().Config.Refused {
		wrong = append(wrong, n.String())
	}
	wrong = append(wrong, w.relays()...)
	if w.settler.Stalled() > 0 {
		wrong = append(wrong, "outcomes cannot be written to the journal; nothing new is sent")
	}
	if list := w.store.Damaged(); len(list) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d damaged records in the spool, the first in segment %08X at %d: %s (millrace spool verify)",
			len(list), list[0].Segment, list[0].Offset, list[0].Reason))
	}
	if list := w.store.Unreadable(); len(list) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d segments of the spool cannot be read, and are tried again, the first is %08X at %d: %s",
			len(list), list[0].Segment, list[0].Offset, list[0].Reason))
	}
	if why := w.events.Trouble(); why != "" {
		wrong = append(wrong, "the event file cannot be written: "+why)
	}
	if stuck := w.settler.Stuck(); stuck != "" {
		wrong = append(wrong, stuck)
	}
	if why := w.shutOut.Load(); why != nil && *why != "" {
		wrong = append(wrong, *why)
	}
	if found := w.bypassed.Load(); found != nil {
		wrong = append(wrong, *found...)
	}
	return public(append(wrong, w.orders.Trouble(time.Now())...))
}
