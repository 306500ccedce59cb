package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// health serves /healthz, /readyz, /metrics and the status page on [agent.http] listen until ctx
// ends. The first two answer 200 with "ok", or 503 with a reason on each line.
func (a *Agent) health(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, a.notReady()) })
	mux.Handle("/", a.web)
	mux.Handle("GET /metrics", a.metrics.Handler(a.log))
	s := &http.Server{
		BaseContext: func(net.Listener) context.Context { return ctx }, // of readers that stay
		Handler:     mux, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		a.log.Error("HTTP server failed", "err", err)
	}
}

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
	if found := a.bypassed.Load(); found != nil {
		wrong = append(wrong, *found...)
	}
	return append(wrong, a.heeded.shown(time.Now())...)
}
