package control

import (
	"context"
	"errors"
	"net/http"
)

// In a fleet what admins order is common to its nodes, unless a request says that it is for this
// node alone: with "here=1" in its query.

// Spread is which nodes of the fleet have what was ordered on this one.
type Spread struct {
	Fleet     string   `json:"fleet,omitempty"` // "": there is no fleet
	Confirmed []string `json:"confirmed,omitempty"`
	Missing   []string `json:"missing,omitempty"` // nodes that have not said so yet
	// Alone says why what is ordered on this node of a fleet is for it alone, with the remedy; there
	// is no Fleet then.
	Alone string `json:"alone,omitempty"`
}

// CommonBackend is the part of a Backend about what is ordered for all nodes of a fleet.
type CommonBackend interface {
	// Spread waits for a moment until all nodes have what was ordered on this one.
	Spread(context.Context) Spread
}

type hereKey struct{}

// IsHere reports whether the request that a Backend's method serves is for this node alone.
func IsHere(ctx context.Context) bool { return ctx.Value(hereKey{}) != nil }

// WithHere has a request be for this node alone.
func WithHere(ctx context.Context) context.Context {
	return context.WithValue(ctx, hereKey{}, true)
}

// withHere notes which requests are for this node alone.
func withHere(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("here") == "1" {
			r = r.WithContext(WithHere(r.Context()))
		}
		h.ServeHTTP(w, r)
	})
}

func (s *Server) common() {
	s.mux.HandleFunc("GET /v1/spread", func(w http.ResponseWriter, r *http.Request) {
		var x Spread
		if b, ok := s.backend.(CommonBackend); ok {
			x = b.Spread(r.Context())
		}
		respond(w, x, nil)
	})
}

// Here has all requests of this client that change something be for this node alone.
func (c *Client) Here() { c.here = true }

// Spread asks which nodes of the fleet have what was ordered on this one; it takes up to two
// seconds.
func (c *Client) Spread(ctx context.Context) (x Spread, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/spread", nil, &x)
	if errors.Is(err, ErrOlder) {
		return Spread{}, nil // an agent of before has no fleet
	}
	return x, err
}
