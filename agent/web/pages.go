package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/outcome"
)

// The longest lists; what is left out is counted.
const (
	maxSiteRows   = 50
	maxStreamRows = 50
	maxSourceRows = 50
	maxHolds      = 10
)

// view is one look at the agent.
type view struct {
	Snapshot
	query   url.Values
	trusted bool
	history *history.History
	rate    float64 // deliveries a second
	rates   map[string]float64
	explain func(site string) (Account, bool)
}

func (h *Handler) view(r *http.Request) *view {
	v := &view{Snapshot: h.now(), query: r.URL.Query(), history: h.o.History, explain: h.o.Backend.Explain}
	v.trusted = h.keys.trusted(r, time.Now())
	v.rate, v.rates = v.history.Rate(v.Time), v.history.SiteRates(v.Time)
	return v
}

func (v *view) frame(name string, body any) frame {
	f := frame{
		Page: name, Title: "Now", Hostname: shown(v.Hostname), Version: v.Version,
		AsOf: v.Time.Format("15:04:05 MST"), Full: v.trusted, Body: body,
	}
	switch x := body.(type) {
	case sitePage:
		f.Title = x.Name
	case failuresPage:
		f.Title = "Recent failures"
	case string:
		f.Title = "Not shown"
	}
	return f
}

// figure is a number that is looked for first.
type figure struct{ Name, Value, Note string }

// overviewPage is the first page.
type overviewPage struct {
	Headline    string
	Figures     []figure
	Trouble     []string
	Holds       []hold
	MoreHolds   string // what is left out, by reason
	Spans       []spanLink
	Charts      []chart
	Sites       []siteRow
	MoreSites   int
	Streams     []streamRow
	MoreStreams int
	Sources     []Source
	MoreSources int
	Limits      []Limit
	MoreLimits  int
	Warmups     []warmupRow
	MoreWarmups int
	Classes     []classRow
	Since       string // what Classes cover
	Unknown     []UnknownReply
}

func (h *Handler) overview(v *view) (any, *problem) {
	p := overviewPage{Headline: v.headline(), Figures: v.figures()}
	for _, t := range v.Trouble {
		p.Trouble = append(p.Trouble, v.text(t))
	}
	p.Holds, p.MoreHolds = v.holds()
	span, links := v.span("/")
	p.Spans, p.Charts = links, v.charts(span)
	p.Sites, p.MoreSites = v.siteRows()
	p.Streams, p.MoreStreams = v.streamRows()
	p.Sources, p.MoreSources = first(slices.Clone(v.Sources), maxSourceRows)
	for i := range p.Sources {
		p.Sources[i].What = v.text(p.Sources[i].What)
	}
	p.Limits, p.MoreLimits = first(slices.Clone(v.Limits), maxSourceRows)
	for i := range p.Limits {
		p.Limits[i] = Limit{v.text(p.Limits[i].Name), v.text(p.Limits[i].What)}
	}
	p.Warmups, p.MoreWarmups = v.warmups()
	p.Classes = v.classRows()
	for _, x := range v.Unknown {
		p.Unknown = append(p.Unknown, UnknownReply{x.Count, v.text(x.Example)})
	}
	return p, nil
}

// first are the first of a sorted list, and how many more there are. Only those are
// put into words: an agent may have ten thousand sites.
func first[T any](list []T, most int) ([]T, int) {
	if len(list) <= most {
		return list, 0
	}
	return list[:most], len(list) - most
}

func (v *view) headline() string {
	if v.Waiting+v.Active+v.Deferred == 0 {
		return "Nothing waits. New bulk mail is sent as it comes."
	}
	var b strings.Builder
	if ready := v.ready(); ready == 0 {
		b.WriteString("Nothing is ready to go")
	} else {
		fmt.Fprintf(&b, "Sending to %s recipients a second over %s. %s ready to go", amount(v.rate), plural(v.Sessions, "session"), are(ready))
		if d, stuck, ok := v.empty(); ok && stuck == 0 {
			fmt.Fprintf(&b, "; the last of them is gone in about %s", about(d))
		} else if ok {
			fmt.Fprintf(&b, "; all but %s are gone in about %s", number(stuck), about(d))
		}
	}
	b.WriteString(".")
	if n := v.limited(); n > 0 {
		fmt.Fprintf(&b, " %s for limits of their streams.", wait(n))
	}
	if v.Deferred > 0 {
		fmt.Fprintf(&b, " %s for a later attempt.", wait(v.Deferred))
	}
	return b.String()
}

// limited are the recipients that wait for limits of their streams, whatever their receivers take.
func (v *view) limited() (n int) {
	for i := range v.Sites {
		n += v.Sites[i].Limited
	}
	return min(n, v.Waiting)
}

// ready are the recipients that may go.
func (v *view) ready() int { return v.Waiting - v.limited() + v.Active }

func are(n int) string {
	if n == 1 {
		return "1 recipient is"
	}
	return number(n) + " recipients are"
}

func wait(n int) string {
	if n == 1 {
		return "1 recipient waits"
	}
	return number(n) + " recipients wait"
}

func (v *view) figures() []figure {
	empty, note := "—", "nothing is being delivered"
	ready := v.ready()
	if d, stuck, ok := v.empty(); ok {
		empty, note = about(d), "at the present rates"
		if stuck > 0 {
			note = "but for " + number(stuck) + " that cannot go now"
		}
	}
	if ready == 0 {
		empty, note = "now", "nothing is ready to go"
	}
	return []figure{
		{"Backlog", number(v.Waiting + v.Active + v.Deferred), number(v.Deferred) + " of it deferred"},
		{"Rate", amount(v.rate) + "/s", "deliveries"},
		{"Time to empty", empty, note},
		{"Sessions", number(v.Sessions), "to " + plural(v.connected(), "site")},
	}
}

// empty is how long the slowest site takes for what waits there, at the rates of
// late. What is stuck is left out of it: where nothing was delivered of late, or
// which belongs to no site. It is false if nothing moves.
func (v *view) empty() (d time.Duration, stuck int, ok bool) {
	stuck = v.homeless()
	for _, s := range v.Sites {
		stuck += s.Paused
		n := s.Waiting - s.Limited
		if n <= 0 {
			continue
		}
		if x, moves := left(n, v.rates[s.Name]); moves && s.Held.Reason != "suspended" {
			d, ok = max(d, x), true
		} else {
			stuck += n
		}
	}
	return d, stuck, ok
}

// homeless are the recipients that wait at no site, paused or not.
func (v *view) homeless() int {
	n := v.Waiting
	for _, s := range v.Sites {
		n -= s.Waiting + s.Paused
	}
	return max(0, n)
}

func (v *view) connected() (n int) {
	for _, s := range v.Sites {
		if s.Sessions > 0 {
			n++
		}
	}
	return n
}

type streamRow struct {
	Name           string
	Percent        int
	Done, Total    string
	Bounced        string
	Deferred, Left string
	Paused         string
}

// progress is what waits of a stream, and what became of it.
type progress struct {
	Stream
	past history.Stream
}

func (p *progress) remaining() int { return p.Waiting + p.Deferred + p.Active }

func (v *view) streamRows() (list []streamRow, more int) {
	past := v.history.Streams(v.Time)
	var all []progress
	for _, s := range v.Streams {
		all = append(all, progress{s, past[s.Name]})
		delete(past, s.Name)
	}
	for name, h := range past {
		all = append(all, progress{Stream{Name: name}, h})
	}
	slices.SortFunc(all, func(a, b progress) int {
		return cmp.Or(cmp.Compare(b.remaining(), a.remaining()), b.past.Last.Compare(a.past.Last), cmp.Compare(a.Name, b.Name))
	})
	all, more = first(all, maxStreamRows)
	for _, p := range all {
		list = append(list, v.streamRow(p))
	}
	return list, more
}

func (v *view) streamRow(p progress) streamRow {
	remaining, done := p.remaining(), p.past.Sent+p.past.Bounced+p.past.Ended
	row := streamRow{
		Name: v.text(p.Name), Done: number(done), Total: number(done + remaining), Bounced: number(p.past.Bounced),
		Deferred: number(p.Deferred), Percent: 100, Left: "done",
	}
	if p.Name == "" {
		row.Name = "(no stream)"
	}
	if remaining > 0 {
		row.Percent, row.Left = int(100*int64(done)/int64(done+remaining)), "—"
		if d, ok := left(remaining, p.past.Rate); ok {
			row.Left = about(d)
		}
	}
	if p.Paused != "" {
		row.Paused, row.Left = v.text(p.Paused), "paused"
	} else if p.Waits != "" {
		row.Paused, row.Left = v.text(p.Waits), "waits"
	}
	return row
}

type classRow struct {
	Name, Meaning            string
	Bounced, BouncedHour     string
	Deferrals, DeferralsHour string
	Share                    int // of the most bounces of a class, in percent
}

func (v *view) classRows() []classRow {
	var list []classRow
	most := 1
	for _, c := range v.history.Classes() {
		most = max(most, c.Bounced)
		list = append(list, classRow{
			Name: c.Class.String(), Meaning: meanings[c.Class], Share: 100 * c.Bounced / most,
			Bounced: number(c.Bounced), BouncedHour: number(c.BouncedLastHour),
			Deferrals: number(c.Deferrals), DeferralsHour: number(c.DeferralsLastHour),
		})
	}
	return list
}

// meanings are the classes in plain words.
var meanings = map[outcome.Class]string{
	outcome.ClassUserUnknown:    "no such mailbox",
	outcome.ClassHostUnknown:    "no such domain",
	outcome.ClassHasMoved:       "the mailbox has moved",
	outcome.ClassMailboxFull:    "mailbox over quota",
	outcome.ClassRateLimited:    "too fast or too much for the receiver",
	outcome.ClassReputation:     "our address is distrusted",
	outcome.ClassAuthentication: "SPF, DKIM, DMARC or reverse DNS",
	outcome.ClassPolicy:         "a rule of the receiver",
	outcome.ClassContent:        "taken for spam or malformed",
	outcome.ClassNetwork:        "no connection, or no DNS",
	outcome.ClassTLS:            "no TLS, or not the TLS required",
	outcome.ClassProtocol:       "a command or extension was not understood",
	outcome.ClassGreylisted:     "told to come back",
	outcome.ClassTooBig:         "too big for the server",
	outcome.ClassExpired:        "too long in our queue",
	outcome.ClassSizeLimit:      "too big for the mailbox",
	outcome.ClassSystem:         "trouble of the receiver's system, or ours",
	outcome.ClassConnections:    "one connection too many",
	outcome.ClassSuspended:      "mailbox disabled or unused",
	outcome.ClassUndefined:      "the reply does not tell",
	outcome.ClassNone:           "no reason given",
}

// failuresPage lists recent failures, with addresses.
type failuresPage struct{ Rows []failureRow }

type failureRow struct {
	At, Status, Class          string
	Recipient, Sender, Stream  string
	ID, QueueID, Relay, Reason string
	Next                       string
}

func (h *Handler) failures(v *view) (any, *problem) {
	if !v.trusted {
		return nil, &problem{http.StatusForbidden, "This page shows mail addresses. Whoever may use the agent's control socket gets a link to it with: millrace web"}
	}
	var p failuresPage
	for _, f := range v.history.Recent() {
		row := failureRow{
			At: clock(f.Time, v.Time), Status: string(f.Status), Class: f.Class.String(),
			Recipient: v.text(f.Recipient), Sender: v.text(cmp.Or(f.Sender, "<>")), Stream: v.text(f.Stream),
			ID: f.ID.String(), QueueID: shown(f.QueueID), Relay: shown(f.Relay), Reason: v.text(f.Reason),
		}
		if !f.Due.IsZero() && f.Status == event.Deferred {
			row.Next = clock(f.Due, v.Time)
		}
		p.Rows = append(p.Rows, row)
	}
	return p, nil
}
