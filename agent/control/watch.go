package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// WatchQuestion says which dialogues are to be watched: those that all of it is true of.
type WatchQuestion struct {
	Site      string   `json:"site,omitempty"`
	Sites     []string `json:"-"`                   // those that Site means, as the agent knows; none: the one of that name
	Recipient string   `json:"recipient,omitempty"` // transactions for this address
	Failed    bool     `json:"failed,omitempty"`    // those in which something was refused, once they are over
	First     int      `json:"first,omitempty"`     // so many, and no more; 0: all
}

// Whose a WatchLine is.
const (
	WatchClient = "C"
	WatchServer = "S"
	WatchNote   = "-" // nobody's: what happened
)

// WatchLine is one line of a dialogue.
type WatchLine struct {
	Time    time.Time `json:"time"`
	Session uint64    `json:"session"` // its number since the agent's start; 0: of none
	From    string    `json:"from"`
	Text    string    `json:"line"`           // without content and secrets
	Lost    int       `json:"lost,omitempty"` // lines that are missing here
}

// WatchBackend is the part of a Backend about dialogues.
type WatchBackend interface {
	// Watch calls yield with lines as they come, first with none once it watches, until
	// all that was asked for was shown, ctx ends or yield returns an error.
	Watch(ctx context.Context, q WatchQuestion, yield func([]WatchLine) error) error
}

// watchPatience is how long the reader of a dialogue may take nothing: somebody reads page
// by page.
const watchPatience = 10 * time.Minute

// watch is the request to look on.
func (s *Server) watch() {
	s.mux.HandleFunc("POST /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		var q WatchQuestion
		if !decode(w, r, &q) {
			return
		}
		out := bufio.NewWriter(w)
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		rc := http.NewResponseController(w)
		begun := false
		send := func() error {
			rc.SetWriteDeadline(time.Now().Add(watchPatience))
			if err := out.Flush(); err != nil {
				return err
			}
			return rc.Flush()
		}
		err := s.backend.Watch(r.Context(), q, func(lines []WatchLine) error {
			if !begun {
				begun = true
				s.audit(r, q, nil, nil)
				w.Header().Set("Content-Type", "application/x-ndjson")
			}
			for i := range lines {
				if err := enc.Encode(&lines[i]); err != nil {
					return err
				}
			}
			return send()
		})
		if !begun {
			s.audit(r, q, nil, err)
			respond(w, nil, err)
			return
		}
		last := lastOutcome{End: true}
		if err != nil {
			last.Error = err.Error()
		}
		if r.Context().Err() == nil && enc.Encode(last) == nil {
			_ = send()
		}
	})
}

// Watch calls yield with the lines of dialogues as they come, first with nil once the agent
// watches, until all that was asked for was shown, ctx ends or yield returns an error.
func (c *Client) Watch(ctx context.Context, q WatchQuestion, yield func(*WatchLine) error) error {
	b, err := json.Marshal(q)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/watch", bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := yield(nil); err != nil {
		return err
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var line struct {
			WatchLine
			lastOutcome
		}
		if err := dec.Decode(&line); err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, io.EOF):
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("control socket: %w", err)
		}
		if line.End {
			if line.Error != "" {
				return fmt.Errorf("the agent: %s", line.Error)
			}
			return nil
		}
		if err := yield(&line.WatchLine); err != nil {
			return err
		}
	}
}
