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
	// Unknown are the replies that no rule knew; UnknownReplies has the most frequent.
	Unknown        int            `json:"unknown,omitempty"`
	UnknownReplies []UnknownReply `json:"unknown_replies,omitempty"`
}

// UnknownReply is a form of a reply that no rule knew: replies that differ in numbers and
// names are one.
type UnknownReply struct {
	Count   int       `json:"count"`
	Example string    `json:"example"` // the first one, with the host that spoke
	Site    string    `json:"site,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
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
	Moved      int    `json:"moved,omitempty"` // to another node
}

// Totals asks what the agent did since it started.
func (c *Client) Totals(ctx context.Context) (t Totals, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/totals", nil, &t)
	return t, err
}
