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
	Paused   string `json:"paused,omitempty"`   // why; "" if it is not
	Priority int    `json:"priority,omitempty"` // its share beside others; 0 is 1
}

// Setting changes what is asked of a stream; nil fields stay as they are.
type Setting struct {
	Stream   string  `json:"stream"`
	Paused   *string `json:"paused,omitempty"`
	Priority *int    `json:"priority,omitempty"`
}

// Filter selects queued recipients: those for which each field that is given
// holds. A filter without any selects nothing unless All is set.
type Filter struct {
	All    bool   `json:"all,omitempty"`
	ID     string `json:"id,omitempty"`
	Stream string `json:"stream,omitempty"`
	Queue  string `json:"queue,omitempty"`
	Site   string `json:"site,omitempty"`
	Domain string `json:"domain,omitempty"` // of the recipient, in any case
	Sender string `json:"sender,omitempty"` // envelope sender, in any case
	User   string `json:"user,omitempty"`   // SASL user that submitted the mail
	Client string `json:"client,omitempty"` // address of the SMTP client that did
}

// Empty reports whether the filter selects nothing.
func (f Filter) Empty() bool { return f == Filter{} }

// Selected is what became of the recipients that a filter selected.
type Selected struct {
	Recipients int `json:"recipients"` // done as asked
	Active     int `json:"active"`     // in a transaction: that takes its course
}

// Change is one change of what a site's controller wants, and the reply or
// measurement behind it.
type Change struct {
	At    time.Time `json:"at"`
	From  int       `json:"from"` // sessions
	To    int       `json:"to"`
	Pace  float64   `json:"pace,omitempty"` // messages per second; 0: no limit
	Cause string    `json:"cause"`
}

// ErrUnknown says that the agent does not know what the request names.
var ErrUnknown = errors.New("not known to the agent")

// admin are the requests that change something or explain it.
func admin(mux *http.ServeMux, b Backend) {
	mux.HandleFunc("GET /v1/streams", func(w http.ResponseWriter, r *http.Request) { respond(w, b.Streams(), nil) })
	mux.HandleFunc("POST /v1/stream", func(w http.ResponseWriter, r *http.Request) {
		var s Setting
		if demand(w, r, &s) {
			respond(w, struct{}{}, b.Set(s))
		}
	})
	mux.HandleFunc("POST /v1/cancel", func(w http.ResponseWriter, r *http.Request) {
		var f Filter
		if demand(w, r, &f) {
			done, err := b.Cancel(r.Context(), f)
			respond(w, done, err)
		}
	})
	mux.HandleFunc("GET /v1/why", func(w http.ResponseWriter, r *http.Request) {
		changes, err := b.Why(r.URL.Query().Get("site"))
		respond(w, changes, err)
	})
	mux.HandleFunc("POST /v1/weblink", func(w http.ResponseWriter, r *http.Request) {
		link, err := b.WebLink()
		respond(w, link, err)
	})
}

// largest bounds the octets of a request.
const largest = 1 << 18

// demand reads a request, or answers that it cannot be read.
func demand(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, largest))
	d.DisallowUnknownFields()
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

// Set changes what is asked of a stream.
func (c *Client) Set(ctx context.Context, s Setting) error {
	return c.call(ctx, http.MethodPost, "/v1/stream", s, &struct{}{})
}

// Cancel takes recipients out of the queue for good.
func (c *Client) Cancel(ctx context.Context, f Filter) (done Selected, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/cancel", f, &done)
	return done, err
}

// Why asks for the last changes of a site, oldest first; ErrUnknown if there is
// no such site.
func (c *Client) Why(ctx context.Context, site string) (list []Change, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/why?site="+url.QueryEscape(site), nil, &list)
	return list, err
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
	return fmt.Errorf("control socket: %s: %s", resp.Status, said)
}
