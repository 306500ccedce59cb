package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// OutcomeQuestion says what to tell the outcomes of: an address, a queue id of the host, the
// id of a message, or a stream; one of them.
type OutcomeQuestion struct {
	Recipient string
	QueueID   string
	ID        string
	Stream    *string
	Since     time.Time // zero: all that there is
}

// Outcome is one attempt, or another event, as it is kept. The names are those of the event
// file.
type Outcome struct {
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	ID        string    `json:"id"`
	Ordinal   uint32    `json:"ordinal"`
	QueueID   string    `json:"qid,omitempty"`
	Origin    string    `json:"origin"`
	Stream    string    `json:"stream,omitempty"`
	Recipient string    `json:"recipient,omitempty"` // "": kept by hash, or not at all
	Domain    string    `json:"domain,omitempty"`
	Queue     string    `json:"queue,omitempty"`
	Site      string    `json:"site,omitempty"`
	Relay     string    `json:"relay,omitempty"`
	Source    string    `json:"source,omitempty"`
	Tries     int       `json:"tries"`
	Class     string    `json:"class"`
	Hard      bool      `json:"hard"`
	Rule      string    `json:"rule,omitempty"`
	Code      int       `json:"code,omitempty"`
	Enhanced  string    `json:"dsn,omitempty"`
	Reply     string    `json:"reply,omitempty"`
	HostID    string    `json:"host_qid,omitempty"` // the queue id that the host MTA gave to what was handed back
	Due       time.Time `json:"due,omitzero"`
}

// Erasure is a request to erase an address.
type Erasure struct {
	Address string `json:"address"`
}

// Erased is what was erased of an address.
type Erased struct {
	Rows   int `json:"rows"`   // attempts
	Events int `json:"events"` // in the agent's own logs of events
	Files  int `json:"files"`  // damaged ones that had been set aside
}

// OutcomesBackend is the part of a Backend about what became of mail.
type OutcomesBackend interface {
	// Outcomes calls yield for what is kept until it returns an error.
	Outcomes(ctx context.Context, q OutcomeQuestion, yield func(*Outcome) error) error
	// Day is what is counted of the day that begins then, in UTC.
	Day(ctx context.Context, day time.Time) (DayTotals, error)
	// Erase erases what is kept of an address.
	Erase(ctx context.Context, e Erasure) (Erased, error)
}

// lastOutcome ends a listing: what the reader has is all, or Error says why not.
type lastOutcome struct {
	End   bool   `json:"end"`
	Error string `json:"error,omitempty"`
}

// outcomes are the requests about what became of mail.
func (s *Server) outcomes() {
	s.mux.HandleFunc("GET /v1/outcomes", func(w http.ResponseWriter, r *http.Request) {
		v := r.URL.Query()
		q := OutcomeQuestion{Recipient: v.Get("recipient"), QueueID: v.Get("qid"), ID: v.Get("id")}
		if v.Has("stream") {
			stream := v.Get("stream")
			q.Stream = &stream
		}
		if t := v.Get("since"); t != "" {
			var err error
			if q.Since, err = time.Parse(time.RFC3339, t); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		out := bufio.NewWriterSize(deadlineWriter{w}, listingBuffer)
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		err := s.backend.Outcomes(r.Context(), q, func(o *Outcome) error { return enc.Encode(o) })
		last := lastOutcome{End: true}
		if err != nil {
			last.Error = err.Error()
		}
		if enc.Encode(last) == nil {
			out.Flush()
		}
	})
	s.mux.HandleFunc("POST /v1/erase", func(w http.ResponseWriter, r *http.Request) {
		var e Erasure
		if decode(w, r, &e) {
			done, err := s.backend.Erase(r.Context(), e)
			s.audit(r, "an address", done, err) // which is to be forgotten
			respond(w, done, err)
		}
	})
}

// Outcomes lists what became of mail, until yield returns an error.
func (c *Client) Outcomes(ctx context.Context, q OutcomeQuestion, yield func(*Outcome) error) error {
	v := url.Values{}
	for key, value := range map[string]string{"recipient": q.Recipient, "qid": q.QueueID, "id": q.ID} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.Stream != nil {
		v.Set("stream", *q.Stream)
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339))
	}
	resp, err := c.get(ctx, "/v1/outcomes?"+v.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(resp.Body, listingBuffer))
	for {
		var line struct {
			Outcome
			lastOutcome
		}
		if err := dec.Decode(&line); err != nil {
			if err == io.EOF {
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
		if err := yield(&line.Outcome); err != nil {
			return err
		}
	}
}

// Erase has the agent erase what it keeps of an address.
func (c *Client) Erase(ctx context.Context, e Erasure) (done Erased, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/erase", e, &done)
	return done, err
}
