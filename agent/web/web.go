// Package web is the agent's status page: what is happening now in plain words,
// charts of the last hours, a page for each site with its explained history, streams
// and how far they are, bounces by class.
//
// It is read-only, needs nothing from outside, and works without JavaScript; the
// script only puts newer numbers in place. Everything is rendered here: a page that is
// asked for as text/event-stream is sent again every two seconds, whole, and the
// script exchanges the parts that are marked data-live. A reader that is too
// slow for that is dropped; it holds up nobody.
//
// # Who may see what
//
// Whoever reaches the address sees the page, but no mail address: what receivers and
// streams say is shown with local parts left out. Full text, and the page of
// recent failures with its senders and recipients, want a cookie. It is given once for a
// Link, which the agent hands out over its control socket only: who may use that
// socket may see addresses. A browser sends a cookie to every port of its host, so
// it is worth a session here for some hours and nothing else.
//
// Names and replies come from strangers. They pass shown, which makes control and
// bidirectional characters visible, and html/template, which escapes them; the
// Content-Security-Policy lets nothing run that is not ours. The Host field must
// be an address, localhost or a configured name: a page elsewhere whose name was made
// to point here (DNS rebinding) sees nothing.
package web

import (
	"embed"
	"html/template"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/history"
)

// Backend is what the page shows. The calls must not wait for anything.
type Backend interface {
	// Snapshot is what is happening now. It is asked for once a second at
	// most, however many look.
	Snapshot() Snapshot
	// Explain tells all of a site; false if it is not known.
	Explain(site string) (Account, bool)
}

// Snapshot is the state of the agent.
type Snapshot struct {
	Time     time.Time
	Hostname string
	Version  string
	Waiting  int      // recipients ready to go
	Deferred int      // recipients that wait for a later attempt
	Active   int      // recipients in transactions
	Sessions int      // established
	Trouble  []string // what an admin must look at
	Sites    []Site
	Streams  []Stream
	Sources  []Source       // that mail leaves from
	Limits   []Limit        // of streams
	Warmups  []Warmup       // of addresses, those that are not warm yet
	Unknown  []UnknownReply // replies that no rule knew, the most frequent
}

// UnknownReply is a form of a reply that no rule knew.
type UnknownReply struct {
	Count   int
	Example string
}

// Site is the state of one site.
type Site struct {
	Name, Queue       string
	Waiting           int
	Limited           int // of those waiting: for limits of their streams
	Paused            int // recipients that would wait there, but for pauses
	PausedBy          string
	Sessions, Opening int
	Target            int     // sessions that are wanted
	Pace              float64 // messages a second; 0: no limit
	Cause             string  // behind the last change
	Held              Held
}

// Held says why a site gets less than it could; it does not if Reason is "".
type Held struct {
	Reason string    // in a word
	How    string    // what that means here
	Reply  string    // what stands behind it
	Until  time.Time // when it ends; zero: that is not known
	Next   time.Time // when it is tried again; zero: that is not known
}

// Account is what is told of one site alone.
type Account struct {
	State               string // of its controller
	Want, Held, Lagging int    // slots
	Host                int    // left to the host MTA
	MaxSessions         int
	Whose               string  // whose limit was found; "" if none was
	Lag                 float64 // seconds after its end that a slot is free
	Addresses           []Address
	Changes             []Change // oldest first
}

// Address is one address of a site.
type Address struct {
	Address        string
	Held, Accepted int  // slots
	Limited        bool // one more than accepted was refused
	Pace           float64
	Down           bool      // it is passed by now while there are others
	Failed         string    // how its last connect failed; "": it did not
	Error          string    // the same in the words of the error, or of the receiver
	Since, Until   time.Time // it is down, and passed by
	Opens          time.Time // no connect before
	Reply          string
}

// Stream is what waits of a stream.
type Stream struct {
	Name                      string
	Waiting, Deferred, Active int // recipients
	Paused                    string
	Waits                     string // which limit of its [[stream]] it waits for
}

// Source is an address that mail leaves from.
type Source struct {
	Address  string
	What     string // its pool, its name, what is wrong with it
	Sessions int
	Trouble  bool
}

// Limit is what a [[stream]] bounds, and how much of it is used.
type Limit struct{ Name, What string }

// Change is one change of what a site gets, and why.
type Change struct {
	At       time.Time
	From, To int
	Pace     float64
	Cause    string
}

// Options are what a Handler needs.
type Options struct {
	Backend Backend
	History *history.History
	// Hostnames are the names, beside addresses and localhost, under which the
	// page may be asked for.
	Hostnames func() []string
	Log       *slog.Logger
}

//go:embed pages static
var files embed.FS

// Handler serves the page.
type Handler struct {
	o     Options
	mux   *http.ServeMux
	pages *template.Template
	keys  keys
	lives chan struct{} // one for each live reader

	mu       sync.Mutex
	snapshot Snapshot
}

// New makes a handler.
func New(o Options) *Handler {
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // the name is a constant
	}
	h := &Handler{
		o: o, mux: http.NewServeMux(), lives: make(chan struct{}, maxLive),
		pages: template.Must(template.ParseFS(files, "pages/*.html")),
	}
	h.mux.HandleFunc("/{$}", h.page("overview", h.overview))
	h.mux.HandleFunc("/site", h.page("site", h.site))
	h.mux.HandleFunc("/failures", h.page("failures", h.failures))
	h.mux.HandleFunc("/enter", h.enter)
	h.mux.Handle("/static/", http.StripPrefix("/static/", http.FileServerFS(static)))
	h.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuse(w, r, http.StatusNotFound, "There is no such page.")
	})
	return h
}

// policy lets the pages load our own style, script and icon, and ask us for
// newer numbers; nothing else.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy":      policy,
		"X-Frame-Options":              "DENY",
		"X-Content-Type-Options":       "nosniff",
		"Referrer-Policy":              "no-referrer",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-store",
		"Vary":                         "Accept, Cookie",
	} {
		w.Header().Set(name, value)
	}
	switch {
	case !h.Known(r.Host):
		http.Error(w, "this page is not served under that name; remedy: use the address, or list the name in [agent.http] hostnames",
			http.StatusMisdirectedRequest)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this page is read-only", http.StatusMethodNotAllowed)
	default:
		h.mux.ServeHTTP(w, r)
	}
}

// Known reports whether the Host field of a request names us. An address does
// so always: nobody can make one point elsewhere.
func (h *Handler) Known(host string) bool {
	name := host
	if n, _, err := net.SplitHostPort(host); err == nil {
		name = n
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return true
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || slices.ContainsFunc(h.o.Hostnames(), func(n string) bool { return strings.EqualFold(n, name) })
}

// now is the snapshot of this second. Those who ask at once wait for one.
func (h *Handler) now() Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.snapshot.Time) >= time.Second {
		h.snapshot = h.o.Backend.Snapshot()
	}
	return h.snapshot
}
