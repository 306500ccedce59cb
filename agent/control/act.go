package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Verb is what an Action does with the recipients that its filter selects.
type Verb string

// The verbs.
const (
	VerbCancel  Verb = "cancel"  // end them, and tell nobody
	VerbExpire  Verb = "expire"  // end them as expired, with the reports that are owed
	VerbHold    Verb = "hold"    // keep them until Release
	VerbRelease Verb = "release" // end Hold
	VerbFlush   Verb = "flush"   // try them now
	VerbRequeue Verb = "requeue" // forget their tries and find their way anew
	VerbMove    Verb = "move"    // give them to another node
)

// NoVerb ends the error of an agent that does not know a verb.
const NoVerb = "is no verb for queued mail"

// Action is a verb and what it is about.
type Action struct {
	Verb   Verb   `json:"verb"`
	Filter Filter `json:"filter"`
	Dry    bool   `json:"dry,omitempty"` // only count
	To     string `json:"to,omitempty"`  // of VerbMove: the node
}

// Selected is what became of the recipients that a filter selected.
type Selected struct {
	Recipients int `json:"recipients"` // done as asked
	Messages   int `json:"messages"`   // that they are of
	Active     int `json:"active"`     // in a transaction: that takes its course
}

// progressLine is one line of the answer to an order: how far it is, at last with End.
type progressLine struct {
	Selected
	End   bool   `json:"end,omitempty"`
	Error string `json:"error,omitempty"`
}

// act serves an order and tells of its progress, one object a line.
func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	var o Action
	if !decode(w, r, &o) {
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	send := func(n progressLine) {
		out.SetWriteDeadline(time.Now().Add(writeTimeout))
		if enc.Encode(n) == nil {
			out.Flush()
		}
	}
	done, err := s.backend.Act(r.Context(), o, func(done Selected) { send(progressLine{Selected: done}) })
	if !o.Dry {
		s.audit(r, o, done, err)
	}
	last := progressLine{Selected: done, End: true}
	if err != nil {
		last.Error = err.Error()
	}
	send(last)
}

// Act gives an order and waits for its end; progress, if not nil, is told how far it
// is. When ctx ends the agent stops where it is.
func (c *Client) Act(ctx context.Context, o Action, progress func(Selected)) (done Selected, err error) {
	b, err := json.Marshal(o)
	if err != nil {
		return done, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/act", bytes.NewReader(b))
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var n progressLine
		if err := dec.Decode(&n); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return done, fmt.Errorf("control socket: after %d recipients: %w", done.Recipients, err)
		}
		done = n.Selected
		switch {
		case strings.HasSuffix(n.Error, NoVerb):
			return done, fmt.Errorf("the verb %s is not known: %w", o.Verb, ErrOlder)
		case n.Error != "":
			return done, errors.New(n.Error)
		case n.End:
			return done, nil
		case progress != nil:
			progress(done)
		}
	}
}
