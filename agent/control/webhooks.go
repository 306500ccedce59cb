package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Webhook is how a [[webhook]] stands.
type Webhook struct {
	Name    string    `json:"name"`
	Form    string    `json:"form"`
	Host    string    `json:"host"`    // of its URL, with the scheme
	Waiting uint64    `json:"waiting"` // events of the log that it has not passed, those for others with them
	Taken   uint64    `json:"taken"`   // events, since it began
	Lost    uint64    `json:"lost"`    // likewise, by the bounds of the log
	Gone    uint64    `json:"gone"`    // that had been set aside, and are not listed any more
	Last    time.Time `json:"last,omitzero"`
	Since   time.Time `json:"failing_since,omitzero"`
	Why     string    `json:"why,omitempty"` // it fails, or nothing is posted
	Aside   []Aside   `json:"aside,omitempty"`
}

// Aside is an event that a webhook refused for good.
type Aside struct {
	ID     string          `json:"event_id"`
	Time   time.Time       `json:"time"`
	Answer string          `json:"answer"`
	Event  json.RawMessage `json:"event"` // as it was posted
}

// WebhookTest has one event posted that says so.
type WebhookTest struct {
	Name string `json:"name"`
}

// WebhookReplay has all posted again that the log has since a time.
type WebhookReplay struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
}

// WebhookBackend is the part of a Backend about webhooks.
type WebhookBackend interface {
	Webhooks() []Webhook
	// TestWebhook returns how the receiver answered.
	TestWebhook(context.Context, WebhookTest) (answer string, err error)
	// ReplayWebhook returns how many events of the log are gone through again, those for
	// others with them.
	ReplayWebhook(context.Context, WebhookReplay) (events uint64, err error)
}

// webhooks are the requests about webhooks.
func (s *Server) webhooks() {
	s.mux.HandleFunc("GET /v1/webhooks", func(w http.ResponseWriter, r *http.Request) { respond(w, s.backend.Webhooks(), nil) })
	change(s, "/v1/webhook-test", s.backend.TestWebhook)
	change(s, "/v1/webhook-replay", s.backend.ReplayWebhook)
}

// Webhooks lists webhooks, in the order of the configuration.
func (c *Client) Webhooks(ctx context.Context) (list []Webhook, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/webhooks", nil, &list)
	return list, err
}

// TestWebhook has one event posted that says so, and returns how the receiver answered.
func (c *Client) TestWebhook(ctx context.Context, t WebhookTest) (answer string, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/webhook-test", t, &answer)
	return answer, err
}

// ReplayWebhook has all posted again that the log has since a time, and returns how many events
// that are, those for others with them.
func (c *Client) ReplayWebhook(ctx context.Context, x WebhookReplay) (events uint64, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/webhook-replay", x, &events)
	return events, err
}
