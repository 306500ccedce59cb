// Package breaker holds a stream at a provider, and there only, when its hard bounces or its
// complaints pass a bar, while it is being sent.
//
// A Breaker is a listener of deliveries, and counts; Hold of its Options, which package orders
// serves, keeps the mail from being sent; Run writes the counts and tells the admin by mail. What
// an admin has resumed is remembered by the orders.
//
// # What is counted
//
// A run is the mail of one stream that arrived on one day (UTC) and goes to one provider:
// complaints come days later, and belong to the mail that they are about. Google, too, counts
// complaints by the day of the mail (support.google.com/a/answer/6254652). A provider is a [[queue]],
// as for provider_quotas; all domains that no [[queue]] lists are one, the general queue: a
// test of each of ten thousand small domains would find some ill by chance, and one whose
// addresses are all gone says nothing of a list. A trial is a recipient that the
// provider accepted or whose address it called useless (outcome.Decision.Hard, as for
// suppression). What it refuses for another reason tells of sender, content or reputation, and
// is a matter of [[reply]]. A late bounce or complaint counts if it counts for suppression
// (package assess), once for its message and recipient, and if the DNS tells whose the
// recipient is now. Mail without a stream is not counted.
//
// Where no complaint was ever seen from a provider, nothing is known of them: Google's feedback
// loop has rates of campaigns on a page, and sends no reports (the same). There the breaker goes
// by bounces alone, and InWords says so. Yahoo counts complaints against the mail that reached
// inboxes (senders.yahooinc.com/best-practices), which no sender knows; of all that was accepted
// they are a smaller share.
//
// When a run is above a bar with confidence (evidence.go), the stream is held at that provider
// until an admin resumes it. The trials are taken to be alike: of a list whose dead addresses
// all stand at its beginning, the beginning is what is judged.
//
// # What is durable
//
// Counts are written once a minute, at a stop, and within a second where a run has grown by a
// tenth since, or by a hundred recipients if that is more. So a crash makes a run smaller by no
// more than that and a second's mail, and complaints about it look as much more. Bounces are lost
// with the recipients that they were of. A file that cannot be read is told, and counted anew.
package breaker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/spool"
)

// Bars are the rates above which a stream is held; 0: it is not, whatever the rate.
type Bars struct {
	HardBounces, Complaints float64 // of 1
}

// Policy is what the configuration says.
type Policy struct {
	Bars
	Notify   string // whom a mail tells of what is held; "": nobody
	Hostname string
}

// Options are what a Breaker works with.
type Options struct {
	Log  *slog.Logger
	Path string // of the file; "": counts are kept in memory alone
	// Hold holds a stream at a provider, and returns false if it is held already or an admin
	// has resumed it. Held tells what is held, in the order in which it was.
	Hold func(stream, provider, reason string) bool
	Held func() []control.Pause
	// Post sends a mail of our own by the host MTA.
	Post func(e *spool.Envelope, content []byte) error
}

// Key names a run.
type Key struct {
	Stream   string `json:"stream"`
	Provider string `json:"provider"`
	Day      string `json:"day"` // "2026-11-29", on which the mail arrived, UTC
}

// Run is what is counted of a run.
type Run struct {
	Key
	Recipients  int `json:"recipients"` // that were accepted or bounced hard
	HardBounces int `json:"hard_bounces,omitempty"`
	Complaints  int `json:"complaints,omitempty"`

	asked time.Time // when Hold was called last
	saved int       // recipients that the file has
}

const (
	// keptDays is how many days runs are kept: complaints come up to some days late.
	keptDays = 8
	// maxRuns bounds the runs: senders choose how many streams there are. Beyond it the smallest
	// half is forgotten, which are far from any confidence.
	maxRuns = 20_000
	// askEvery is the least time between two calls of Hold for a run.
	askEvery = 10 * time.Second
	// mostUnsaved is by how many recipients a small run may grow until it is written.
	mostUnsaved = 100
	// lookEvery is how often there is a look at what is to be written and told.
	lookEvery = time.Second
)

// Breaker counts. Its methods may be called by many goroutines.
type Breaker struct {
	o Options

	mu       sync.Mutex
	policy   Policy
	runs     map[Key]*Run
	reported map[string]bool // providers from which a complaint was seen
	mailed   time.Time       // when the last mail went
	told     map[hold]bool   // what mails have told of what is held
	retry    time.Time       // a mail could not be sent; not before
	dirty    bool            // the file lacks something
	urgent   bool            // and that is not to wait
	saved    time.Time
	failed   bool // it could not be written at the last try
}

// New returns the Breaker of a file.
func New(o Options, now time.Time) *Breaker {
	b := &Breaker{o: o, runs: make(map[Key]*Run), reported: make(map[string]bool), told: make(map[hold]bool), saved: now}
	if err := b.load(); err != nil {
		o.Log.Warn("what the breaker had counted is lost; it counts anew", "err", err)
	}
	return b
}

// Use puts a policy into force.
func (b *Breaker) Use(p Policy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.policy = p
}

// dayOf is the day of a moment.
func dayOf(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// oldest is the first day that is kept.
func oldest(now time.Time) string { return dayOf(now.AddDate(0, 0, 1-keptDays)) }

// Delivery implements event.Listener.
func (b *Breaker) Delivery(d *event.Delivery) {
	e := d.Envelope
	if e == nil || e.Origin != spool.Diverted || e.Stream == "" || d.Queue == "" {
		return
	}
	arrived := e.Arrived
	trial, bounce, complaint := false, false, false
	switch d.Status {
	case event.Sent:
		trial = true
	case event.Bounced:
		trial, bounce = d.Hard, d.Hard
	case event.LateBounce:
		arrived, bounce = d.Arrived, d.Hard && d.Uncounted == "" && d.Site != ""
	case event.Complaint:
		arrived, complaint = d.Arrived, d.Uncounted == "" && d.Site != ""
	}
	if !trial && !bounce && !complaint {
		return
	}
	k := Key{e.Stream, d.Queue, dayOf(arrived)}
	if reason := b.count(k, trial, bounce, complaint, d.Time); reason != "" && b.o.Hold(k.Stream, k.Provider, reason) {
		b.o.Log.Error("a stream is held at a provider; see to the cause, then millrace resume",
			"stream", k.Stream, "queue", k.Provider, "reason", reason)
	}
}

// count counts, and returns why the stream is to be held; "" if it is not.
func (b *Breaker) count(k Key, trial, bounce, complaint bool, now time.Time) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if complaint && !b.reported[k.Provider] {
		b.reported[strings.Clone(k.Provider)] = true
		b.dirty = true
	}
	if b.policy.Bars == (Bars{}) || k.Day < oldest(now) {
		return ""
	}
	r := b.runs[k]
	if r == nil {
		if !trial {
			return "" // the mail was counted nowhere
		}
		b.makeRoom()
		k.Stream, k.Provider = strings.Clone(k.Stream), strings.Clone(k.Provider)
		r = &Run{Key: k}
		b.runs[k] = r
	}
	b.dirty = true
	if trial {
		r.Recipients++
		b.urgent = b.urgent || r.Recipients-r.saved > max(mostUnsaved, r.saved/10)
	}
	if bounce {
		r.HardBounces++
	}
	if complaint {
		r.Complaints++
	}
	if !bounce && !complaint || !r.asked.IsZero() && now.Sub(r.asked) < askEvery {
		return "" // no more evidence than before
	}
	reason := r.above(b.policy.Bars)
	if reason == "" {
		return ""
	}
	r.asked = now
	if !b.reported[k.Provider] {
		reason += "; " + unknownComplaints
	}
	return reason
}

// unknownComplaints says what is not known where no reports come.
const unknownComplaints = "no complaint was ever reported by this provider, so bounces are all that is known"

// above says what of a run is above its bar with confidence; "" if nothing is.
func (r *Run) above(bars Bars) string {
	for _, x := range [...]struct {
		n    int
		bar  float64
		what string
	}{{r.HardBounces, bars.HardBounces, "hard bounces"}, {r.Complaints, bars.Complaints, "complaints"}} {
		if x.bar > 0 && proven(r.Recipients, x.n, x.bar) {
			return fmt.Sprintf("breaker: %d %s of %d recipients (%.3g%%) are above %.3g%% for certain", x.n, x.what, r.Recipients,
				100*float64(x.n)/float64(r.Recipients), 100*x.bar)
		}
	}
	return ""
}

// makeRoom forgets what is old, and if that is not enough the smaller half of the runs.
func (b *Breaker) makeRoom() {
	if len(b.runs) < maxRuns {
		return
	}
	b.forgetOld()
	if len(b.runs) < maxRuns {
		return
	}
	sizes := make([]int, 0, len(b.runs))
	for _, r := range b.runs {
		sizes = append(sizes, r.Recipients)
	}
	slices.Sort(sizes)
	most, left := sizes[len(sizes)/2], len(sizes)/2
	for k, r := range b.runs {
		if left > 0 && r.Recipients <= most {
			delete(b.runs, k)
			left--
		}
	}
}

// forgetOld forgets all but the last days that there are. It goes by their number, so that a clock
// that is ahead for a while costs nothing.
func (b *Breaker) forgetOld() {
	var days []string
	for k := range b.runs {
		if i, ok := slices.BinarySearch(days, k.Day); !ok {
			days = slices.Insert(days, i, k.Day)
		}
	}
	if len(days) <= keptDays {
		return
	}
	first := days[len(days)-keptDays]
	for k := range b.runs {
		if k.Day < first {
			delete(b.runs, k)
		}
	}
}

// InWords says by what mail to a provider is judged; "" if it is not.
func (b *Breaker) InWords(provider string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	if x := b.policy.HardBounces; x > 0 {
		list = append(list, fmt.Sprintf("%.3g%% hard bounces", 100*x))
	}
	if x := b.policy.Complaints; x > 0 {
		list = append(list, fmt.Sprintf("%.3g%% complaints", 100*x))
	}
	if list == nil {
		return ""
	}
	text := "streams are held above " + strings.Join(list, " or ")
	if !b.reported[provider] {
		text += "; " + unknownComplaints
	}
	return text
}

// list tells the runs, by stream, provider and day. The caller holds mu.
func (b *Breaker) list() []Run {
	list := make([]Run, 0, len(b.runs))
	for _, r := range b.runs {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(x, y Run) int {
		return cmp.Or(cmp.Compare(x.Stream, y.Stream), cmp.Compare(x.Provider, y.Provider), cmp.Compare(x.Day, y.Day))
	})
	return list
}

// Run writes and tells until ctx ends, then writes for the last time.
func (b *Breaker) Run(ctx context.Context) {
	loop.Every(ctx, lookEvery, func(now time.Time) {
		b.tell(now)
		b.save(now, false)
	})
	b.save(time.Now(), true)
}
