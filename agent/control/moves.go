package control

import (
	"context"
	"net/http"
	"time"
)

// Transfer is mail on its way from one node to another that is not yet only at one of them: it
// waits, and is sent by neither.
type Transfer struct {
	ID         string    `json:"id"`
	Node       string    `json:"node"`           // the other one
	In         bool      `json:"in,omitempty"`   // from there to here
	Who        string    `json:"who,omitempty"`  // asked for it here
	Began      time.Time `json:"began"`          //
	Since      time.Time `json:"since"`          // its batch is open
	Messages   int       `json:"messages"`       // that are open
	Recipients int       `json:"recipients"`     //
	Why        string    `json:"why,omitempty"`  // what it waits for
	Kept       bool      `json:"kept,omitempty"` // given up here: the other node has only to hear of it
}

// TransferOrder is what an admin decides on a transfer.
type TransferOrder struct {
	ID     string `json:"id"`
	Accept bool   `json:"accept,omitempty"` // of one from another node: send its mail here; false: of one from here, keep its mail
}

func (s *Server) moves() {
	s.mux.HandleFunc("GET /v1/moves", func(w http.ResponseWriter, _ *http.Request) { respond(w, s.backend.Transfers(), nil) })
	change(s, "/v1/moves", s.backend.EndTransfer)
}

// Transfers lists the transfers that are open.
func (c *Client) Transfers(ctx context.Context) (list []Transfer, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/moves", nil, &list)
	return list, err
}

// EndTransfer ends the wait of a transfer's mail; ErrUnknown if there is none of that id.
func (c *Client) EndTransfer(ctx context.Context, o TransferOrder) (done Selected, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/moves", o, &done)
	return done, err
}
