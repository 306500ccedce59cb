package event

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// Version is the number of the schema of event lines. It grows when a field goes
// or changes its meaning; new fields and new values of event do not change it.
const Version = 1

// line is one line of the event file; the package comment describes it. The
// order of the fields is that of the file.
type line struct {
	Version   int     `json:"v"`
	Time      stamp   `json:"time"`
	Event     string  `json:"event"`
	ID        string  `json:"id"`
	Ordinal   uint32  `json:"ordinal"`
	QueueID   string  `json:"qid,omitempty"`
	Origin    string  `json:"origin,omitempty"`
	Arrived   stamp   `json:"arrived,omitzero"`
	Size      int64   `json:"size,omitempty"`
	Stream    string  `json:"stream,omitempty"`
	Sender    string  `json:"sender"`
	Recipient string  `json:"recipient"`
	Domain    string  `json:"domain,omitempty"`
	Queue     string  `json:"queue,omitempty"`
	Site      string  `json:"site,omitempty"`
	Relay     string  `json:"relay,omitempty"`
	Source    string  `json:"source,omitempty"`
	Pool      string  `json:"pool,omitempty"`
	Reuse     int     `json:"conn_use,omitempty"`
	Tries     int     `json:"tries"`
	Delay     seconds `json:"delay"`
	Queued    seconds `json:"delay_queue"`
	Connect   seconds `json:"delay_connect"`
	Transmit  seconds `json:"delay_transmit"`
	Class     string  `json:"class"`
	Hard      bool    `json:"hard"`
	Rule      string  `json:"rule,omitempty"`
	Code      int     `json:"code,omitempty"`
	Enhanced  string  `json:"dsn,omitempty"`
	Reply     string  `json:"reply,omitempty"`
	Due       stamp   `json:"due,omitzero"`
	Simulated bool    `json:"simulated,omitempty"`

	FeedbackType string `json:"feedback_type,omitempty"`
	Reporter     string `json:"reporter,omitempty"`
	Counted      *bool  `json:"counted,omitempty"`
	Uncounted    string `json:"uncounted,omitempty"`
}

// gap is the line that stands where events were lost.
type gap struct {
	Version int    `json:"v"`
	Time    stamp  `json:"time"` // of the first one
	Event   string `json:"event"`
	Until   stamp  `json:"until"` // of the last one
	Lost    int64  `json:"lost"`
}

// stamp is a time in the form of the file: RFC 3339 in UTC, always with
// microseconds, so that lines sort as text.
type stamp time.Time

func (t stamp) IsZero() bool { return time.Time(t).IsZero() }

func (t stamp) MarshalJSON() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000000Z"`), nil
}

// seconds is a time span in the form of the file: seconds, to the millisecond.
type seconds time.Duration

func (s seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(time.Duration(s).Milliseconds()) / 1000)
}

// word is the status as the file writes it; "" for what is no event.
func (s Status) word() string {
	switch s {
	case Returned: // nothing was tried
		return ""
	case Returning:
		return "returning"
	case HandedBack:
		return "handed_back"
	case LateBounce:
		return "late_bounce"
	default:
		return string(s)
	}
}

// Event is the status as the value of "event" in the event file; "" for what is no event.
func (s Status) Event() string { return s.word() }

// appendLine adds the delivery's line to b; it adds nothing for what is no event.
func appendLine(b []byte, d *Delivery) []byte {
	l := line{
		Version: Version, Time: stamp(d.Time), Event: d.Status.word(), ID: d.ID.String(), Ordinal: d.Ordinal,
		Recipient: d.Recipient(), Domain: d.Domain, Queue: d.Queue, Site: d.Site,
		Pool: d.Pool, Reuse: d.Reuse, Tries: d.Tries, Class: d.Class.String(), Hard: d.Hard, Rule: d.Rule,
		Code: d.Code, Enhanced: d.Enhanced, Reply: d.Reason, Due: stamp(d.Due), Simulated: d.Simulated,
	}
	if l.Event == "" {
		return b
	}
	if d.Relay != "none" {
		l.Relay = d.Relay
	}
	if d.Source.IsValid() {
		l.Source = d.Source.String()
	}
	if e := d.Envelope; e != nil {
		l.QueueID, l.Stream, l.Sender, l.Arrived, l.Size = e.QueueID, e.Stream, e.Sender, stamp(e.Arrived), e.Size
		l.Origin = "diverted"
		if e.Origin == spool.Report {
			l.Origin = "report"
		}
	}
	if d.Status.CameBack() {
		counted := d.Uncounted == ""
		l.FeedbackType, l.Reporter, l.Counted, l.Uncounted = d.FeedbackType, d.Reporter, &counted, d.Uncounted
	}
	total, queued, connect, transmit := d.Delay()
	l.Delay, l.Queued, l.Connect, l.Transmit = seconds(total), seconds(queued), seconds(connect), seconds(transmit)
	return encode(b, l)
}

// encode adds a JSON object and a line end. It cannot fail for our types: what is
// not UTF-8 becomes U+FFFD.
func encode(b []byte, v any) []byte {
	buf := bytes.NewBuffer(b)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false) // <a@example.com> stays readable
	_ = enc.Encode(v)
	return buf.Bytes()
}
