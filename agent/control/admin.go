package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Stream is the state of one stream (a campaign or list).
type Stream struct {
	Name     string `json:"name"`
	Waiting  int    `json:"waiting"` // recipients
	Deferred int    `json:"deferred"`
	Active   int    `json:"active"`
	Held     int    `json:"held,omitempty"`
	Paused   string `json:"paused,omitempty"`   // why a brake of the stream is on; "" if none is
	Priority int    `json:"priority,omitempty"` // its share beside others; 0 is 1

	Limits string    `json:"limits,omitempty"` // name of its [[stream]]
	Waits  string    `json:"waits,omitempty"`  // which of its limits it waits for
	Until  time.Time `json:"until,omitzero"`   // when that ends, if that is known
}

// Change is one change of what a site's controller wants, and the reply or
// measurement behind it.
type Change struct {
	At    time.Time `json:"at,omitzero"` // zero: no change is remembered
	From  int       `json:"from"`        // sessions
	To    int       `json:"to"`
	Pace  float64   `json:"pace,omitempty"` // messages per second; 0: no limit
	Cause string    `json:"cause"`
	// Now is how the site stands; the last change has it.
	Now *Account `json:"now,omitempty"`
}

// SiteFound is a site and what is known of it.
type SiteFound struct {
	Name      string   `json:"name"`                    // "": there are several
	Several   []string `json:"several,omitempty"`       // their names
	Source    string   `json:"source,omitempty"`        // address that connections favour
	Hosts     []string `json:"hosts,omitempty"`         // some, of the best preference
	Addresses []string `json:"addresses,omitempty"`     // of a provider some
	Domains   []string `json:"domains,omitempty"`       // a few
	Others    int      `json:"other_domains,omitempty"` // of a domain: how many more are known to have the site, or one of the several
}

// ErrUnknown says that the agent does not know what the request names.
var ErrUnknown = errors.New("not known to the agent")

// ErrOlder says that the agent does not know what a program of a later version asks of it.
// Nothing was done.
var ErrOlder = errors.New("the millrace-agent that runs is older than this program; remedy: restart millrace-agent")

// change serves requests that change something: each is logged with who made it.
func change[Q, A any](s *Server, path string, do func(context.Context, Q) (A, error)) {
	s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if decode(w, r, &q) {
			a, err := do(r.Context(), q)
			s.audit(r, q, a, err)
			respond(w, a, err)
		}
	})
}

// audit logs what a peer asked for and what came of it.
func (s *Server) audit(r *http.Request, request, result any, err error) {
	p := PeerOf(r.Context())
	asked, _ := json.Marshal(request) // it came as JSON
	attrs := []any{"do", strings.TrimPrefix(r.URL.Path, "/v1/"), "who", p.String(), "pid", p.PID, "request", string(asked)}
	if err != nil {
		s.log.Warn("admin", append(attrs, "err", err)...)
		return
	}
	came, _ := json.Marshal(result)
	s.log.Info("admin", append(attrs, "result", string(came))...)
}

// admin are the requests that change something or explain it.
func (s *Server) admin() {
	b := s.backend
	s.mux.HandleFunc("GET /v1/streams", func(w http.ResponseWriter, r *http.Request) { respond(w, b.Streams(), nil) })
	s.mux.HandleFunc("GET /v1/standing", func(w http.ResponseWriter, r *http.Request) { respond(w, b.Standing(), nil) })
	s.mux.HandleFunc("POST /v1/act", s.act)
	change(s, "/v1/pause", noResult(b.Pause))
	change(s, "/v1/resume", b.Resume)
	change(s, "/v1/limit", noResult(b.Limit))
	change(s, "/v1/forget", b.Forget)
	change(s, "/v1/priority", noResult(b.Prioritize))
	change(s, "/v1/reload", noResult(func(ctx context.Context, _ struct{}) error { return b.ReloadConfig(ctx) }))
	s.mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		changes, err := b.Why(r.URL.Query().Get("site"))
		respond(w, changes, err)
	})
	s.mux.HandleFunc("GET /v1/site", func(w http.ResponseWriter, r *http.Request) {
		found, err := b.FindSite(r.Context(), r.URL.Query().Get("of"))
		respond(w, found, err)
	})
	s.mux.HandleFunc("POST /v1/weblink", func(w http.ResponseWriter, r *http.Request) {
		link, err := b.WebLink()
		s.audit(r, nil, nil, err) // the link is nobody else's business
		respond(w, link, err)
	})
}

// noResult makes a change that has no result.
func noResult[Q any](do func(context.Context, Q) error) func(context.Context, Q) (struct{}, error) {
	return func(ctx context.Context, q Q) (struct{}, error) { return struct{}{}, do(ctx, q) }
}

// maxRequest bounds the octets of a request.
const maxRequest = 1 << 18

// decode reads an order, or answers that it cannot be read. A field that is not known comes
// from a command of a later version: what it asks for, a narrower selection maybe, must not be
// left out, so the order is refused.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	return read(w, r, v, (*json.Decoder).DisallowUnknownFields)
}

// decodeReport reads a report, or answers that it cannot be read. What of it is not known
// comes from a program of a later version, and is passed over.
func decodeReport(w http.ResponseWriter, r *http.Request, v any) bool {
	return read(w, r, v, func(*json.Decoder) {})
}

// unknownField is how package json begins to say which field it does not know.
const unknownField = "json: unknown field"

func read(w http.ResponseWriter, r *http.Request, v any, prepare func(*json.Decoder)) bool {
	in := http.NewResponseController(w)
	in.SetReadDeadline(time.Now().Add(writeTimeout))
	defer in.SetReadDeadline(time.Time{})
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	prepare(d)
	if err := d.Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func respond(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	default:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
}

// Streams lists the streams with mail or a setting.
func (c *Client) Streams(ctx context.Context) (list []Stream, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/streams", nil, &list)
	return list, err
}

// Why asks for the last changes of a site, oldest first, the last one with how it stands
// now; ErrUnknown if there is no such site.
func (c *Client) Why(ctx context.Context, site string) (list []Change, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/why?site="+url.QueryEscape(site), nil, &list)
	return list, err
}

// FindSite asks which site, or sites, a text means: a name, a former name, an MX host, an
// address or a domain; ErrUnknown if none.
func (c *Client) FindSite(ctx context.Context, text string) (x SiteFound, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/site?of="+url.QueryEscape(text), nil, &x)
	return x, err
}

// WebLink asks for a URL of the status page that lets one browser see addresses; it is
// good once, for five minutes.
func (c *Client) WebLink(ctx context.Context) (link string, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/weblink", nil, &link)
	return link, err
}

// call sends a request and reads the answer into v.
func (c *Client) call(ctx context.Context, method, path string, request, v any) error {
	var body io.Reader
	if request != nil {
		b, err := json.Marshal(request)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// refusal is the error of a response that is not 200.
func refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	said := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusNotFound && strings.HasSuffix(said, ErrUnknown.Error()) {
		return fmt.Errorf("%s%w", strings.TrimSuffix(said, ErrUnknown.Error()), ErrUnknown)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		return fmt.Errorf("%s %s is not known: %w", resp.Request.Method, resp.Request.URL.Path, ErrOlder)
	case strings.Contains(said, unknownField):
		_, field, _ := strings.Cut(said, unknownField)
		return fmt.Errorf("the field%s is not known: %w", field, ErrOlder)
	}
	if resp.StatusCode == http.StatusUnprocessableEntity && said != "" {
		return errors.New(said) // the backend's own words
	}
	return fmt.Errorf("control socket: %s: %s", resp.Status, said)
}
