package control

import (
	"context"
	"net/http"
	"time"
)

// Pause keeps mail from being sent until it is taken off. New mail meets it too.
type Pause struct {
	// Filter says which mail: by queue, site, stream and domain, or by sender, SASL
	// user and client, or all. It is also the pause's name.
	Filter Filter    `json:"filter"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since,omitzero"` // set by the agent, as Who
	Until  time.Time `json:"until,omitzero"` // when it comes off by itself; zero: when somebody takes it off
	Who    string    `json:"who,omitempty"`
	// Order is the identity of a common order of the fleet (package order), which begins with the
	// node that issued it; "": it is of this node alone.
	Order string `json:"order,omitempty"`
	// Receiver is what was asked for, where the pause is for a receiver: beside the filter's site,
	// which is that of one source address, its sites of all others are paused, each by a Pause of its
	// own, and so is each that is new. "": for the filter's site alone, or for none.
	Receiver string `json:"receiver,omitempty"`
}

// Limit bounds a site, or all sites of a queue, for a time, in place of what the
// configuration says.
type Limit struct {
	Name     string    `json:"name"`               // of a site or a queue
	Sessions int       `json:"sessions,omitempty"` // 0: as configured
	Rate     float64   `json:"rate,omitempty"`     // messages per second; 0: as configured
	Until    time.Time `json:"until"`
	Who      string    `json:"who,omitempty"`      // set by the agent
	Order    string    `json:"order,omitempty"`    // as in Pause
	Receiver string    `json:"receiver,omitempty"` // as in Pause
}

// StandingOrders is what admins, and rules about replies, have asked for, and what lasts.
type StandingOrders struct {
	Pauses     []Pause        `json:"brakes,omitempty"`
	Limits     []Limit        `json:"limits,omitempty"`
	Priorities map[string]int `json:"priorities,omitempty"` // of streams
	Effects    []Effect       `json:"effects,omitempty"`
	Released   []Release      `json:"released,omitempty"`
}

// Breaker is Who of a Pause that the breaker made.
const Breaker = "breaker"

// Release is what the breaker had paused and an admin has resumed: it is not paused again
// by the breaker until then.
type Release struct {
	Filter Filter    `json:"filter"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
}

// Effect is what a reply rule does to a site for a time. What rules do to streams are
// pauses.
type Effect struct {
	Site     string    `json:"site"`
	Rule     string    `json:"rule"`
	Action   string    `json:"action"` // "slow", "suspend", "sessions", as in the configuration
	Sessions int       `json:"sessions,omitempty"`
	Rate     float64   `json:"rate,omitempty"` // messages per second, of "slow"
	Reason   string    `json:"reason"`         // the rule and the reply
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`

	// Address is the source address that the receiver says is blocked; "": none was spoken of.
	// Where others take its mail meanwhile, Queue is the provider at which they do, and Stream
	// the one that earned the block, whose mail waits.
	Address string `json:"address,omitempty"`
	Queue   string `json:"queue,omitempty"`
	Stream  string `json:"stream,omitempty"`
}

// Priority is a stream's share beside the others, from 1.
type Priority struct {
	Stream   string `json:"stream"`
	Priority int    `json:"priority"`
}

// Standing asks for what is in force.
func (c *Client) Standing(ctx context.Context) (s StandingOrders, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/standing", nil, &s)
	return s, err
}

// Pause puts a pause in force, in place of one of the same filter.
func (c *Client) Pause(ctx context.Context, b Pause) error {
	return c.call(ctx, http.MethodPost, "/v1/pause", b, &struct{}{})
}

// Resume ends the pause of the filter, and of a site also what reply rules have done to
// it, and returns the pauses that are left.
func (c *Client) Resume(ctx context.Context, f Filter) (left []Pause, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/resume", f, &left)
	return left, err
}

// Limit bounds a site or a queue for a time; without sessions and rate it ends that.
func (c *Client) Limit(ctx context.Context, l Limit) error {
	return c.call(ctx, http.MethodPost, "/v1/limit", l, &struct{}{})
}

// Forget drops what was learned of a site, of those of a queue, or of all for "", and
// returns of how many.
func (c *Client) Forget(ctx context.Context, name string) (sites int, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/forget", name, &sites)
	return sites, err
}

// Prioritize sets a stream's share.
func (c *Client) Prioritize(ctx context.Context, p Priority) error {
	return c.call(ctx, http.MethodPost, "/v1/priority", p, &struct{}{})
}

// Reload has the agent read its configuration; the error says what is wrong with it.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/reload", struct{}{}, &struct{}{})
}
