package control

import (
	"context"
	"net/http"
	"time"
)

// Fleet is how this node stands with its fleet.
type Fleet struct {
	Fleet   string    `json:"fleet"` // "": this host is of none
	Node    string    `json:"node,omitempty"`
	Members []string  `json:"members"`
	Divisor int       `json:"divisor"`          // this node's floor of a limit is limit/divisor; 0: it has none yet
	Server  string    `json:"server,omitempty"` // of the store, that answered last
	Away    string    `json:"away,omitempty"`   // why it does not answer
	Since   time.Time `json:"since,omitzero"`   // when that began, or when it came back
	State   string    `json:"state"`            // "ok", "away", "recovery", "unknown" (the store knows no member), "left", "new" (no floor yet)
	Lease   float64   `json:"lease_seconds_left"`
	Calls   int64     `json:"calls"`
	Errors  int64     `json:"errors"`
	Limits  []Lent    `json:"limits"` // of which this node has, or wants, more than its floor
	// More is how many more there are of these.
	More     int      `json:"more,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

// Lent is what this node may use of a limit that the fleet's nodes share.
type Lent struct {
	Name  string  `json:"name"`
	Limit float64 `json:"limit"` // sessions, or messages a second of a stream, of all nodes together
	Floor float64 `json:"floor"`
	May   float64 `json:"may"`
	Has   int     `json:"has"` // sessions
	Want  float64 `json:"want"`
}

// FleetNode names a node.
type FleetNode struct {
	Node string `json:"node"`
}

// FleetBackend is the part of a Backend about the fleet.
type FleetBackend interface {
	Fleet() Fleet
	// ForgetNode has the store lend to others what is a node's that is off for good.
	ForgetNode(context.Context, FleetNode) error
	// LeaveFleet gives up this node's part, for good.
	LeaveFleet(context.Context) error
	// BootstrapFleet says that no node of the fleet was ever granted anything.
	BootstrapFleet(context.Context) error
}

// fleet are the requests about the fleet.
func (s *Server) fleet() {
	s.mux.HandleFunc("GET /v1/fleet", func(w http.ResponseWriter, r *http.Request) { respond(w, s.backend.Fleet(), nil) })
	change(s, "/v1/fleet-forget", noResult(s.backend.ForgetNode))
	change(s, "/v1/fleet-leave", noResult(func(ctx context.Context, _ struct{}) error { return s.backend.LeaveFleet(ctx) }))
	change(s, "/v1/fleet-bootstrap", noResult(func(ctx context.Context, _ struct{}) error { return s.backend.BootstrapFleet(ctx) }))
}

// Fleet tells how the node stands with its fleet.
func (c *Client) Fleet(ctx context.Context) (f Fleet, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/fleet", nil, &f)
	return f, err
}

// ForgetNode has the store lend to others what is a node's that is off for good.
func (c *Client) ForgetNode(ctx context.Context, node string) error {
	return c.call(ctx, http.MethodPost, "/v1/fleet-forget", FleetNode{node}, &struct{}{})
}

// LeaveFleet gives up this node's part, for good.
func (c *Client) LeaveFleet(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/fleet-leave", struct{}{}, &struct{}{})
}

// BootstrapFleet says that no node of the fleet was ever granted anything.
func (c *Client) BootstrapFleet(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/fleet-bootstrap", struct{}{}, &struct{}{})
}
