package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxFeedback is how many octets of a report are taken; more are not read.
const maxFeedback = 256 << 10

// Finding is what came of a report about one recipient.
type Finding struct {
	Kind      string `json:"kind"`         // late_bounce, complaint, feedback, no_failure
	Result    string `json:"result"`       // counted, uncounted, repeated, old, unverified
	ID        string `json:"id,omitempty"` // of the message; "" without a mark of ours
	Recipient string `json:"recipient,omitempty"`
	Stream    string `json:"stream,omitempty"`
	Why       string `json:"why,omitempty"` // it does not count
}

// feedback takes reports: the body is the message, as it came.
func (s *Server) feedback() {
	s.mux.HandleFunc("POST /v1/feedback", func(w http.ResponseWriter, r *http.Request) {
		in := http.NewResponseController(w)
		in.SetReadDeadline(time.Now().Add(writeTimeout))
		defer in.SetReadDeadline(time.Time{})
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxFeedback))
		if err != nil && !errors.As(err, new(*http.MaxBytesError)) {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		found, err := s.backend.Feedback(r.Context(), b)
		respond(w, found, err)
	})
}

// Feedback has the agent judge a message that may be a report, of which it takes the first
// 256 KiB; no findings say that it is none.
func (c *Client) Feedback(ctx context.Context, message []byte) (list []Finding, err error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/feedback", bytes.NewReader(message[:min(len(message), maxFeedback)]))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return list, nil
}
