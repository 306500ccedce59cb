package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Suppression is an entry of the suppression list.
type Suppression struct {
	Address    string    `json:"address"`
	Stream     string    `json:"stream"` // "": all streams
	Last       time.Time `json:"last"`   // of the last bounce, or when the admin added it
	Bounces    int       `json:"bounces"`
	Class      string    `json:"class"`      // of the last bounce; "none": added by an admin
	Suppressed bool      `json:"suppressed"` // or only counted; not read by the agent
	// Late: it came in a report, after the message was taken; a delivery does not clear it.
	Late bool `json:"late,omitempty"`
}

// SuppressionStats counts the entries of the suppression list.
type SuppressionStats struct {
	Mode       string `json:"mode"`
	Suppressed int    `json:"suppressed"`
	Admin      int    `json:"admin"`   // of these, added by an admin
	Counted    int    `json:"counted"` // have bounced, but not often enough
	Octets     int64  `json:"octets"`  // of the file
}

// SuppressionRemoval names what leaves the suppression list: addresses of one stream, or
// with Stream nil of any.
type SuppressionRemoval struct {
	Addresses []string `json:"addresses"`
	Stream    *string  `json:"stream,omitempty"`
}

// SuppressionBackend is the part of a Backend about the suppression list.
type SuppressionBackend interface {
	// Suppressions calls yield for every entry until it returns an error.
	Suppressions(ctx context.Context, yield func(*Suppression) error) error
	// Suppress adds what next gives, until that returns io.EOF; durable when it
	// returns nil. It returns how many it has added, also with an error.
	Suppress(ctx context.Context, next func(*Suppression) error) (int, error)
	Unsuppress(context.Context, SuppressionRemoval) (int, error)
	SuppressionStats() SuppressionStats
}

// suppression are the requests about the suppression list.
func (s *Server) suppression() {
	b := s.backend
	s.mux.HandleFunc("GET /v1/suppress", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		out, buf := http.NewResponseController(w), bufio.NewWriterSize(w, 1<<16)
		enc := json.NewEncoder(buf)
		n := 0
		err := b.Suppressions(r.Context(), func(x *Suppression) error {
			if n++; n%100 == 1 {
				out.SetWriteDeadline(time.Now().Add(writeTimeout))
			}
			return enc.Encode(x)
		})
		if err != nil {
			// The status is sent; a client that misses the end must not take this for all.
			panic(http.ErrAbortHandler)
		}
		buf.Flush()
	})
	s.mux.HandleFunc("POST /v1/suppress", func(w http.ResponseWriter, r *http.Request) {
		dec := json.NewDecoder(bufio.NewReaderSize(r.Body, 1<<16))
		dec.DisallowUnknownFields()
		n, err := b.Suppress(r.Context(), func(x *Suppression) error {
			*x = Suppression{}
			return dec.Decode(x)
		})
		if err != nil {
			err = fmt.Errorf("%d entries added, then: %w", n, err)
		}
		s.audit(r, "a list of addresses", n, err)
		respond(w, n, err)
	})
	change(s, "/v1/unsuppress", b.Unsuppress)
	s.mux.HandleFunc("GET /v1/suppress/stats", func(w http.ResponseWriter, r *http.Request) { respond(w, b.SuppressionStats(), nil) })
}

// Suppressions lists the suppression list, and what has bounced and is not on it yet.
func (c *Client) Suppressions(ctx context.Context, yield func(*Suppression) error) error {
	resp, err := c.get(ctx, "/v1/suppress")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(resp.Body, 1<<16))
	for {
		var s Suppression
		switch err := dec.Decode(&s); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("control socket: %w", err)
		}
		if err := yield(&s); err != nil {
			return err
		}
	}
}

// Suppress adds what next gives until that returns io.EOF, and returns how many
// entries that were.
func (c *Client) Suppress(ctx context.Context, next func(*Suppression) error) (n int, err error) {
	r, w := io.Pipe()
	failed := make(chan error, 1)
	go func() { // ends with next, or with the request: then writes fail
		buf := bufio.NewWriterSize(w, 1<<16)
		enc := json.NewEncoder(buf)
		var s Suppression
		for {
			err := next(&s)
			if err == nil {
				err = enc.Encode(&s)
			}
			if err != nil {
				if err == io.EOF {
					err = buf.Flush()
				}
				w.CloseWithError(err) // nil: EOF
				failed <- err
				return
			}
		}
	}()
	resp, err := c.do(ctx, http.MethodPost, "/v1/suppress", r)
	r.Close()
	if cause := <-failed; cause != nil && !errors.Is(cause, io.ErrClosedPipe) {
		err = cause // of the input; the request's error follows from it
	}
	if resp != nil {
		defer resp.Body.Close()
	}
	if err != nil {
		return 0, err
	}
	if err := json.NewDecoder(resp.Body).Decode(&n); err != nil {
		return 0, fmt.Errorf("control socket: %w", err)
	}
	return n, nil
}

// Unsuppress takes addresses off the suppression list and returns how many
// entries that were.
func (c *Client) Unsuppress(ctx context.Context, x SuppressionRemoval) (n int, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/unsuppress", x, &n)
	return n, err
}

// SuppressionStats counts the entries of the suppression list.
func (c *Client) SuppressionStats(ctx context.Context) (st SuppressionStats, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/suppress/stats", nil, &st)
	return st, err
}
