// Package control is the agent's admin socket: HTTP with JSON over a Unix
// socket, so that curl can speak it as well as millrace(1).
//
// The agent opens a Server over a Backend; the command uses a Client. Lists are
// streams of JSON objects, one a line, so that millions of entries need no memory on either
// side; a reader that stalls holds up its own request only.
//
// Who may use it is asked of the kernel, not only of the file's mode (peer.go):
// root, the agent's user, the group of the socket. Each request that changes
// something is logged with who made it. Orders that last (pause.go) hold until they
// end; an Action (act.go) is done once, with what its Filter (filter.go) selects.
//
// The programs may be of different versions, for an upgrade or until a restart. Fields are
// added and never change their meaning, and one that is missing means what it meant before it
// was there. Answers and reports may hold fields that their reader does not know; an order
// must not, and the client says ErrOlder of an agent that refuses it for that. What an order
// or a listing is about stands in its JSON, not in parameters, which an older agent would not
// miss.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/listen"
)

// Recipient is one queued recipient of a Message.
type Recipient struct {
	Address string    `json:"address"`
	Reason  string    `json:"delay_reason,omitempty"`
	State   string    `json:"state"` // one of States
	Domain  string    `json:"domain"`
	Site    string    `json:"site,omitempty"`
	Tries   int       `json:"tries"`
	Due     time.Time `json:"due,omitzero"`
}

// Message is one queued message. The names follow postqueue -j.
type Message struct {
	QueueName   string      `json:"queue_name"` // of its first recipient
	ID          string      `json:"queue_id"`
	HostID      string      `json:"host_queue_id"` // the host MTA's queue id
	ArrivalTime int64       `json:"arrival_time"`  // unix seconds
	Size        int64       `json:"message_size"`  // octets
	Stream      string      `json:"stream,omitempty"`
	Sender      string      `json:"sender"`
	Recipients  []Recipient `json:"recipients"`
}

// Site is the state of one site.
type Site struct {
	Name     string  `json:"name"`
	Queue    string  `json:"queue"`
	Hosts    int     `json:"hosts"`
	Waiting  int     `json:"waiting"`
	Limited  int     `json:"limited,omitempty"` // of these, recipients that wait for limits of their streams
	Sessions int     `json:"sessions"`
	Opening  int     `json:"opening"`
	Ready    int     `json:"ready"`
	Target   int     `json:"target"`
	Pace     float64 `json:"pace,omitempty"`    // messages per second that are allowed; 0: any
	Rate     float64 `json:"rate"`              // recipients per second that it accepts, over half a minute
	Latency  float64 `json:"latency,omitempty"` // seconds that a transaction takes, smoothed; 0: none yet
	Refused  int     `json:"refused"`           // connects and transactions that were one too many, or too fast
	Cause    string  `json:"cause,omitempty"`   // of the last change of target or pace

	State    string    `json:"state,omitempty"`         // what its controller is about: growing, bounded, plateau; shut, punished
	Want     int       `json:"slots_wanted"`            // connections that the controller wants
	Held     int       `json:"slots_held"`              // connections that the receiver may count
	Lagging  int       `json:"slots_lagging,omitempty"` // of these, ended and maybe not noticed
	HeldBack *HeldBack `json:"held_back,omitempty"`     // why it gets less than it could
	Paused   int       `json:"paused,omitempty"`        // recipients that would be ready, but for pauses; Waiting is without them
	PausedBy []Pause   `json:"paused_by,omitempty"`     // of the pauses that keep them: one, in an Account all or the first eight; filter and reason
	Source   string    `json:"source,omitempty"`        // address that its connections favour; "": the system chooses
}

// Status is the state of the agent.
type Status struct {
	Version  string `json:"version"`
	Waiting  int    `json:"waiting"` // recipients
	Deferred int    `json:"deferred"`
	Active   int    `json:"active"`
	Held     int    `json:"held"` // on hold, or of a paused sender, user or client
	Sessions int    `json:"sessions"`
	Sites    []Site `json:"sites"`
	// Sources are the addresses that mail leaves from, Limits what [[stream]]s bound.
	Sources []Source       `json:"sources,omitempty"`
	Limits  []StreamLimits `json:"stream_limits,omitempty"`
	// Warmups are the courses of addresses that have a plan.
	Warmups []Warmup `json:"warmup,omitempty"`
	// Loading says that the spool is still being read: there may be more than is
	// counted.
	Loading bool `json:"loading,omitempty"`
}

// Queued is how many recipients are not done, those that are held among them.
func (s *Status) Queued() int { return s.Waiting + s.Deferred + s.Active + s.Held }

// Backend is what the socket serves.
type Backend interface {
	Status() Status
	Totals() Totals
	// Messages calls yield for every queued message with selected recipients, all
	// for the empty filter, until it returns an error.
	Messages(ctx context.Context, f Filter, yield func(*Message) error) error
	Streams() []Stream
	// Shape counts the selected recipients by age; by is one of ShapeBy.
	Shape(ctx context.Context, by string, f Filter) ([]Shape, error)
	// Standing is what is in force of what these have asked for.
	Standing() StandingOrders
	Pause(context.Context, Pause) error
	Resume(context.Context, Filter) (left []Pause, err error)
	Limit(context.Context, Limit) error
	// Forget drops what was learned of a site, of those of a queue, or of all for ""; durable on return.
	Forget(ctx context.Context, name string) (sites int, err error)
	Prioritize(context.Context, Priority) error
	// Act does what a verb says with the selected recipients, and calls tell now and
	// then; for those in transactions some verbs try again, until ctx ends or some
	// seconds have passed.
	Act(ctx context.Context, o Action, tell func(Selected)) (Selected, error)
	// ReloadConfig reads the configuration anew and puts it into force.
	ReloadConfig(context.Context) error
	// Transfers lists mail on its way to or from other nodes that waits; EndTransfer ends the
	// wait of one, ErrUnknown if there is none of the name.
	Transfers() []Transfer
	EndTransfer(context.Context, TransferOrder) (Selected, error)
	// HandBack sends the selected recipients to the host MTA.
	HandBack(ctx context.Context, f Filter) (Selected, error)
	// HandbackStatus is the state of that.
	HandbackStatus() HandbackStatus
	// Milter takes the milter's report.
	Milter(MilterReport) MilterAnswer
	// Why explains a site, the last change with how it stands now; ErrUnknown if there is
	// none of the name.
	Why(site string) ([]Change, error)
	// FindSite finds the site that a text means: a name, a former name, an MX host, an
	// address or a domain; of a receiver that is called from several addresses of ours all of
	// its sites, one for each. ErrUnknown if there is none. Wherever a request names a site it
	// may say the same, and is then for all of them; where the text means sites of different
	// receivers it fails, with an error that names them.
	FindSite(ctx context.Context, text string) (SiteFound, error)
	// WebLink is the URL that lets one browser see addresses on the status page.
	WebLink() (string, error)
	SuppressionBackend
	// Feedback judges a message that is a delivery report or a complaint and does what
	// follows; no findings say that it is none.
	Feedback(ctx context.Context, message []byte) ([]Finding, error)
	OutcomesBackend
	WebhookBackend
	FleetBackend
	WatchBackend
}

// Server serves a Backend.
type Server struct {
	backend  Backend
	log      *slog.Logger
	mux      *http.ServeMux
	http     *http.Server
	listener net.Listener
	nodes    Nodes         // how the others are asked; nil: there are none
	patience time.Duration // with its nodes: answerWithin
}

// writeTimeout is how long a write to a client may take before the request is given up.
const writeTimeout = 30 * time.Second

// listingBuffer is how many octets of a listing wait for its reader. With less a
// million messages take so many more writes.
const listingBuffer = 64 << 10

// deadlineWriter gives each write to a client the time of stall, and no more.
type deadlineWriter struct{ http.ResponseWriter }

func (p deadlineWriter) Write(b []byte) (int, error) {
	http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.ResponseWriter.Write(b)
}

// MaxConnections is how many connections there are at most; silent ones give way.
const MaxConnections = 64

// Listen opens the socket ("unix:/path", mode 0660), for root, the user of this
// process and the group that the file gets: that of the process, or of its directory
// if that has the set-group-ID bit. A socket file left by a dead agent is replaced.
func Listen(address string, b Backend, log *slog.Logger) (*Server, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return nil, fmt.Errorf("control socket %q: only unix:/path is supported", address)
	}
	socket, err := listen.Open(address)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l := listen.Bound(socket, MaxConnections, log)
	d, err := accessOf(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	s := &Server{backend: b, log: log, mux: http.NewServeMux(), listener: l, patience: answerWithin}
	s.routes()
	s.http = &http.Server{
		Handler:           d.guard(withHere(s.mux)),
		ConnContext:       withPeer,
		ConnState:         l.State,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func (s *Server) routes() {
	s.mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(s.backend.Status())
	})
	s.mux.HandleFunc("GET /v1/totals", func(w http.ResponseWriter, r *http.Request) { respond(w, s.backend.Totals(), nil) })
	s.mux.HandleFunc("GET /v1/shape", s.shape)
	s.mux.HandleFunc("GET /v1/queue", func(w http.ResponseWriter, r *http.Request) {
		f, err := readFilter(r.URL.Query())
		if err != nil {
			http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := bufio.NewWriterSize(deadlineWriter{w}, listingBuffer)
		enc := json.NewEncoder(out)
		any := false
		err = s.backend.Messages(r.Context(), f, func(m *Message) error { any = true; return enc.Encode(m) })
		if err == nil {
			err = out.Flush()
		} else if !any && r.Context().Err() == nil {
			respond(w, nil, err)
		}
		if err != nil {
			s.log.Debug("queue listing ended early", "err", err)
		}
	})
	s.admin()
	s.suppression()
	s.outcomes()
	s.webhooks()
	s.fleet()
	s.watch()
	s.day()
	s.handback()
	s.moves()
	s.milter()
	s.feedback()
	s.common()
	s.mux.HandleFunc("GET "+viewPath+"{view}", s.viewOfFleet)
}

// Serve answers requests until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Close stops the server and cuts requests under way.
func (s *Server) Close() error { return s.http.Close() }

// Client speaks to an agent's socket.
type Client struct {
	http http.Client
	here bool
}

// NewClient returns a client for a socket address ("unix:/path").
func NewClient(address string) *Client {
	path := strings.TrimPrefix(address, "unix:")
	return &Client{http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}}
}

// Close gives idle connections up.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ErrNotRunning says that nobody answers on the control socket.
var ErrNotRunning = errors.New("millrace-agent is not running (nobody answers on its control socket)")

func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	return c.do(ctx, http.MethodGet, path, nil)
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	if c.here && method == http.MethodPost {
		path += "?here=1"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://millrace"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			if errors.Is(err, fs.ErrPermission) {
				return nil, fmt.Errorf("control socket: %w; remedy: become root, or a member of the socket's group", op.Err)
			}
			return nil, fmt.Errorf("%w: %v", ErrNotRunning, op.Err)
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// Status asks for the agent's state.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	resp, err := c.get(ctx, "/v1/status")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var st Status
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &st, nil
}

// Lines writes what the filter selects of the queue, all for the empty one, as it comes
// from the agent: a Message in JSON on each line.
func (c *Client) Lines(ctx context.Context, f Filter, out io.Writer) error {
	resp, err := c.get(ctx, "/v1/queue?"+f.values().Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, resp.Body, make([]byte, listingBuffer)); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// Messages lists the queue: what the filter selects, all for the empty one.
func (c *Client) Messages(ctx context.Context, f Filter, yield func(*Message) error) error {
	resp, err := c.get(ctx, "/v1/queue?"+f.values().Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(resp.Body, 1<<16))
	for dec.More() {
		var m Message
		if err := dec.Decode(&m); err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
		if err := yield(&m); err != nil {
			return err
		}
	}
	return nil
}
