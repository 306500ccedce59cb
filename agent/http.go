package agent

import (
	"bytes"
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
	"github.com/millrace/millrace/agent/spool"
)

const (
	// maxHTTP is how many connections one listener of [agent.http] has at most.
	maxHTTP = 64
	// silence is how long a connection may stay without a request.
	silence = 5 * time.Second
)

// listenHTTP opens the listeners of [agent.http].
func (a *Agent) listenHTTP() (list []*listen.Listener, err error) {
	for _, at := range a.now.Load().config.Agent.HTTP.Listen {
		l, err := listen.Open(at)
		if err != nil {
			for _, l := range list {
				l.Close()
			}
			return nil, fmt.Errorf("agent.http: listen %s: %w", at, err)
		}
		list = append(list, listen.Bound(l, maxHTTP, a.log))
	}
	return list, nil
}

// health serves /healthz, /readyz, /metrics and the status page on one listener until ctx
// ends. The first two answer 200 with "ok", or 503 with a reason on each line. None of
// them tells a mail address.
func (a *Agent) health(ctx context.Context, l *listen.Listener) {
	s := newServer(ctx, a.handler(), l, a.log)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("HTTP server failed", "err", err)
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

func (a *Agent) handler() http.Handler {
	own := http.NewServeMux()
	own.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	own.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.notReady()) })
	own.Handle("GET /metrics", whole(a.metrics.Handler(a.log)))
	guarded := a.ownNamesOnly(own)
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, guarded)
	}
	mux.Handle("/", a.web)
	return withoutBody(mux)
}

// ownNamesOnly refuses what is asked for under a name that is not ours, as the status
// page does: a page elsewhere whose name was made to point here (DNS rebinding) would
// read it. A browser always sends Host; who sends none is a balancer or a script.
func (a *Agent) ownNamesOnly(next http.Handler) http.Handler {
	var told sync.Once
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "" || a.web.Known(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		told.Do(func() {
			a.log.Warn("refused over HTTP, under a name that is not ours; remedy: use an address, or list the name in [agent.http] hostnames",
				"host", fmt.Sprintf("%.100q", r.Host), "path", r.URL.Path)
		})
		http.Error(w, "this is not served under that name; remedy: use the address, or list the name in [agent.http] hostnames",
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

func answer(w http.ResponseWriter, wrong []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if len(wrong) == 0 {
		fmt.Fprintln(w, "ok")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	for _, reason := range wrong {
		printable.Fprintln(w, reason)
	}
}

// begun says since when, if that is known.
func begun(since time.Time) string {
	if since.IsZero() {
		return ""
	}
	return " since " + since.Format(time.RFC3339)
}

// notReady says what an admin must look at. Nothing here stops mail.
func (a *Agent) notReady() []string {
	var wrong []string
	if !a.loaded.Load() {
		wrong = append(wrong, "the spool is being read")
	}
	if err := a.unseen(); err != nil {
		wrong = append(wrong, err.Error()+"; the log says why")
	}
	if since, on, err := spool.Draining(a.now.Load().config.Spool.Directory); err != nil {
		wrong = append(wrong, err.Error())
	} else if on {
		wrong = append(wrong, "the spool is being drained"+begun(since)+": the milter diverts nothing until millrace drain --end")
	}
	for _, n := range a.now.Load().config.Refused {
		wrong = append(wrong, n.String())
	}
	wrong = append(wrong, a.relays.shown()...)
	if a.stalled.Load() > 0 {
		wrong = append(wrong, "outcomes cannot be written to the journal; nothing new is sent")
	}
	if list := a.store.Damaged(); len(list) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d damaged records in the spool, the first in segment %08X at %d: %s (millrace spool verify)",
			len(list), list[0].Segment, list[0].Offset, list[0].Reason))
	}
	if list := a.store.Unreadable(); len(list) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d segments of the spool cannot be read, and are tried again, the first is %08X at %d: %s",
			len(list), list[0].Segment, list[0].Offset, list[0].Reason))
	}
	if why := a.events.Trouble(); why != "" {
		wrong = append(wrong, "the event file cannot be written: "+why)
	}
	if n := a.queue.Stuck(); n > 0 {
		wrong = append(wrong, a.refused(n))
	}
	if why := a.shutOut.Load(); why != nil && *why != "" {
		wrong = append(wrong, *why)
	}
	if found := a.bypassed.Load(); found != nil {
		wrong = append(wrong, *found...)
	}
	wrong = append(wrong, a.paused()...)
	return public(append(wrong, a.heeded.shown(time.Now())...))
}
