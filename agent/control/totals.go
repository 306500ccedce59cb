package control

import (
	"context"
	"net/http"
	"time"
)

// Totals is what the agent did since it started. Numbers are recipients.
type Totals struct {
	Since  time.Time     `json:"since"`
	Queues []QueueTotals `json:"queues"` // those with any, by name; "handback" is mail on its way home
	// Bounces and Deferrals count by bounce class ("userunknown"). A recipient that is
	// deferred twice counts twice.
	Bounces   map[string]int `json:"bounces,omitempty"`
	Deferrals map[string]int `json:"deferrals,omitempty"`
}

// QueueTotals is what became of the mail of one queue.
type QueueTotals struct {
	Name       string `json:"name"`
	Sent       int    `json:"sent"`
	Deferred   int    `json:"deferred"` // attempts
	Bounced    int    `json:"bounced"`
	HandedBack int    `json:"handed_back"` // accepted by the host MTA, reports as well
	Cancelled  int    `json:"cancelled"`
	Suppressed int    `json:"suppressed"`
	Damaged    int    `json:"damaged"`
}

// Totals asks what the agent did since it started.
func (c *Client) Totals(ctx context.Context) (t Totals, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/totals", nil, &t)
	return t, err
}
