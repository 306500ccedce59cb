package webhook

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/eventlog"
)

const (
	// maxEvents and maxBody bound a request in the form of this package: events, and octets
	// unless a single event has more.
	maxEvents = 100
	maxBody   = 256 << 10
	// maxReply is how many octets of a receiver's reply are told.
	maxReply = 2 << 10
)

// Event is an event as it is posted. The names are those of the event file (package event),
// but for EventID.
type Event struct {
	EventID   string `json:"event_id"`
	Time      string `json:"time"`
	Event     string `json:"event"`
	ID        string `json:"id,omitempty"`
	Ordinal   uint32 `json:"ordinal"`
	QueueID   string `json:"qid,omitempty"`
	Origin    string `json:"origin,omitempty"`
	Stream    string `json:"stream,omitempty"`
	Recipient string `json:"recipient,omitempty"`
	Domain    string `json:"domain,omitempty"`
	Queue     string `json:"queue,omitempty"`
	Site      string `json:"site,omitempty"`
	Relay     string `json:"relay,omitempty"`
	Source    string `json:"source,omitempty"`
	Tries     int    `json:"tries"`
	Class     string `json:"class,omitempty"`
	Hard      bool   `json:"hard"`
	Rule      string `json:"rule,omitempty"`
	Code      int    `json:"code,omitempty"`
	Enhanced  string `json:"dsn,omitempty"`
	Reply     string `json:"reply,omitempty"`
	Due       string `json:"due,omitempty"`
	Simulated bool   `json:"simulated,omitempty"`

	FeedbackType string `json:"feedback_type,omitempty"`
	Reporter     string `json:"reporter,omitempty"`
	Counted      *bool  `json:"counted,omitempty"`
	Uncounted    string `json:"uncounted,omitempty"`

	Until string `json:"until,omitempty"` // of a gap, with Lost
	Lost  uint64 `json:"lost,omitempty"`
}

// Types of what is posted, as Standard Webhooks has them.
const (
	typeEvents = "millrace.events"
	typeTest   = "millrace.test"
)

// message is the body of a request.
type message struct {
	Type      string `json:"type"`
	Timestamp string `json:"timestamp"` // of the first event
	Data      data   `json:"data"`
}

type data struct {
	Host    string            `json:"host"` // hostname of the configuration
	Webhook string            `json:"webhook"`
	Events  []json.RawMessage `json:"events"`
}

// bounce is the body of listmonk's POST /webhooks/bounce: listmonk.app/docs/bounces, "Webhook
// API". It has to have created_at: a zero one is kept as such.
type bounce struct {
	Email     string `json:"email"`
	Campaign  string `json:"campaign_uuid,omitempty"`
	Source    string `json:"source"`
	Type      string `json:"type"`
	Meta      string `json:"meta"` // JSON, as a string
	CreatedAt string `json:"created_at"`
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000Z")
}

// hashed is an id that is made of a text, with no "." in it: Standard Webhooks, "Signature
// scheme".
func hashed(prefix string, text []byte) string {
	sum := sha256.Sum256(text)
	return prefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:20]))
}

// eventID is the same whenever the same is told: it is made of what no two events have in common.
func eventID(r *eventlog.Record) string {
	return hashed("evt_", fmt.Appendf(nil, "%d %s %d %d %s %s %d %d", r.Time.UnixMicro(), r.Event, r.ID, r.Ordinal, r.Recipient, r.Reporter, r.Tries, r.Lost))
}

func eventOf(r *eventlog.Record) Event {
	e := Event{
		EventID: eventID(r), Time: stamp(r.Time), Event: r.Event, Ordinal: r.Ordinal, QueueID: r.QueueID, Stream: r.Stream, Recipient: r.Recipient,
		Domain: r.Domain, Queue: r.Queue, Site: r.Site, Relay: r.Relay, Source: r.Source, Tries: r.Tries, Class: r.Class, Hard: r.Hard,
		Rule: r.Rule, Code: r.Code, Enhanced: r.Enhanced, Reply: strings.ToValidUTF8(r.Reply[:min(len(r.Reply), maxReply)], ""), Due: stamp(r.Due), Simulated: r.Simulated,
		FeedbackType: r.FeedbackType, Reporter: r.Reporter, Uncounted: r.Uncounted,
	}
	if r.Event == eventlog.Gap {
		e.Until, e.Due, e.Lost = e.Due, "", r.Lost
		return e
	}
	e.ID, e.Origin = r.ID.String(), "diverted"
	if r.Report {
		e.Origin = "report"
	}
	if cameBack(r.Event) {
		counted := r.Uncounted == ""
		e.Counted = &counted
	}
	return e
}

func cameBack(word string) bool {
	return word == event.LateBounce.Event() || word == event.Complaint.Event() || word == event.Feedback.Event()
}

// wantsRecord reports whether a webhook is for a record of the log, which has those of all.
func wantsRecord(c *config.Webhook, r *eventlog.Record) bool {
	if r.Event == eventlog.Gap {
		return c.Form != config.FormListmonk // which has no word for it
	}
	if c.Form == config.FormListmonk && (r.Report || r.Recipient == "" || cameBack(r.Event) && r.Uncounted != "") {
		return false // nobody's bounce, or one that anybody may have made up
	}
	return wants(c, r.Event, r.Stream)
}

// item is an event on its way.
type item struct {
	id, time string
	about    string          // the message, for the log
	after    eventlog.Cursor // behind it, and behind what is not for the webhook
	lost     uint64          // events, between the item before it and after
	json     []byte
}

// item makes the event's part of a request: the whole of it for listmonk.
func (h *hook) item(e *Event) item {
	x := item{id: e.EventID, time: e.Time, about: e.ID}
	if h.config.Form == config.FormListmonk {
		x.json = encode(bounceOf(e))
	} else {
		x.json = encode(e)
	}
	return x
}

// uuid is what listmonk takes for the UUID of a campaign.
var uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func bounceOf(e *Event) bounce {
	b := bounce{Email: e.Recipient, Source: "millrace", Type: "soft", CreatedAt: e.Time}
	if uuid.MatchString(e.Stream) {
		b.Campaign = e.Stream
	}
	switch {
	case e.Event == event.Complaint.Event():
		b.Type = "complaint"
	case e.Hard && e.Event != event.Deferred.Event():
		b.Type = "hard"
	}
	b.Meta = string(encode(struct {
		EventID      string `json:"event_id"`
		Event        string `json:"event"`
		ID           string `json:"id"`
		QueueID      string `json:"qid,omitempty"`
		Stream       string `json:"stream,omitempty"`
		Class        string `json:"class,omitempty"`
		Enhanced     string `json:"dsn,omitempty"`
		Reply        string `json:"reply,omitempty"`
		FeedbackType string `json:"feedback_type,omitempty"`
		Simulated    bool   `json:"simulated,omitempty"`
	}{e.EventID, e.Event, e.ID, e.QueueID, e.Stream, e.Class, e.Enhanced, e.Reply, e.FeedbackType, e.Simulated}))
	return b
}

// request makes the body of a request with items.
func (h *hook) request(kind string, items []item) []byte {
	if h.config.Form == config.FormListmonk {
		return items[0].json
	}
	m := message{Type: kind, Timestamp: items[0].time, Data: data{Host: h.hostname, Webhook: h.config.Name}}
	for i := range items {
		m.Data.Events = append(m.Data.Events, items[i].json)
	}
	return encode(m)
}

// encode cannot fail for our types: what is not UTF-8 becomes U+FFFD.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n")
}
