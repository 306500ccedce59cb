package control

import (
	"context"
	"net/http"
)

// HandbackStatus is the state of the way back to the host MTA.
type HandbackStatus struct {
	Relay   string `json:"relay"`   // the host's port, "host:port"
	Waiting int    `json:"waiting"` // recipients that go there next, of reports too
	Later   int    `json:"later"`   // in a transaction, or not taken yet by the host: tried again
	Stuck   int    `json:"stuck"`   // of both, what the host has refused for good
	Done    int64  `json:"done"`    // handed back since the agent's start
	// HostQueue is the length of the host's incoming and active queues when it was
	// looked at last; -1 if that was not, or could not be done.
	HostQueue int    `json:"host_queue"`
	Held      string `json:"held,omitempty"` // why nothing goes there at the moment
}

// Left is how many recipients are still ours.
func (r *HandbackStatus) Left() int { return r.Waiting + r.Later }

func (s *Server) handback() {
	s.mux.HandleFunc("GET /v1/handback", func(w http.ResponseWriter, r *http.Request) { respond(w, s.backend.HandbackStatus(), nil) })
	change(s, "/v1/handback", s.backend.HandBack)
}

// HandBack makes recipients wait for the host MTA instead of their receivers.
func (c *Client) HandBack(ctx context.Context, f Filter) (done Selected, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/handback", f, &done)
	return done, err
}

// HandbackStatus asks how far that has come.
func (c *Client) HandbackStatus(ctx context.Context) (r HandbackStatus, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/handback", nil, &r)
	return r, err
}
