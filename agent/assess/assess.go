// Package assess judges the reports that come back: about which recipient of which message
// each is, and whether it counts. Package feedback reads them, package trace the mark in the
// header of the message that came back with them.
//
// # What is believed
//
// A mark that holds proves that somebody has seen that message, and not who: a list archive
// shows it to anybody. So a report counts only
//
//   - for a recipient of the transaction that the mark was made for: nobody else is touched;
//   - if the transaction had that one recipient. A mark of several was seen by each of them,
//     who must not speak for the others; there the receiver itself must say so, by a DKIM
//     signature that holds (signature.go), and of the final recipient: the original one is
//     what any client wrote (ORCPT, RFC 3461 section 4.2);
//   - once for each message, recipient and kind, failed or complaint (seen.go);
//   - if the message is not older than MaxAge.
//
// Whatever else a report with a mark says is told by an event and does nothing. One without a
// mark is counted, and no event.
//
// A report of a failure counts as a bounce does, by the words of the receiver; a complaint
// suppresses; both in the stream of the message, which the mark tells, and as its mode says
// (package suppress). That somebody calls mail no spam, or that a check failed, suppresses
// nothing.
//
// # The order of things
//
// Take remembers a report, synced, before anything follows from it, then has the suppression
// list count it, then tells the listeners. So a crash in between leaves one out, and none is
// counted twice. Only then is a message removed from the box of the milter; read once more
// after a crash, it is a repetition.
//
// # In a fleet
//
// A report may come home elsewhere: its return path leads to one host, and another has sent
// the message. The host that gets it hands it over (fleet.go), since only the sender's breaker
// and warm-up know how much mail a complaint is to be measured by, and only one host may
// count it. What that suppresses is common to the fleet anyway. Where the sender does not
// take it, whoever has the report judges it as if the mail were its own: the mark tells all
// that is needed, and a breaker counts no report on mail that it has not seen leave.
//
// New opens what is remembered; Run takes what the milter puts into the box, until its
// context ends; Take takes one report that came another way.
package assess

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/trace"
)

// MaxAge is how old a message may be for a report on it to count. A shared secret that was
// replaced is of no more use after it.
const MaxAge = 30 * 24 * time.Hour

const (
	// lookEvery is how often the box is looked at.
	lookEvery = time.Second
	// readers is how many messages of the box are read at the same time: one whose
	// signature waits for the DNS holds up no other.
	readers = 4
	// lookUpFor is how long the DNS may take over the keys of one report, and siteFor over
	// the name of a site, which is told if it is at hand.
	lookUpFor = 5 * time.Second
	siteFor   = time.Second
	// slowFor is how long the keys of a domain are not asked for after that took too long,
	// and maxSlow how many such domains are remembered: a domain's owner must not have the
	// reports of others wait for his name servers.
	slowFor = time.Minute
	maxSlow = 1000
)

// Options are what an Assessor works with. None may be missing, where nothing else is said.
type Options struct {
	Log      *slog.Logger
	Mail     *event.Log
	Settings *settings.Source
	Key      []byte // the loop key of the spool
	Box      *feedback.Box
	Bounced  *suppress.List
	// Listeners hear of what came back, in this order.
	Listeners []event.Listener
	// State is the directory of what is to outlive a restart; "" keeps it in memory.
	State string
	// Members are the other hosts of the fleet; nil: there are none.
	Members func() []trace.Member
	// HandOver gives a report to the host of the fleet that has sent what it is about, which
	// has made it durable when nil is returned. nil: that host is not asked.
	HandOver func(ctx context.Context, node string, message []byte) error
	// LookupKey returns the text of a key of DKIM; nil: the resolver of the settings is asked.
	LookupKey func(ctx context.Context, name string) ([]string, error)
}

// Assessor judges reports. Its methods may be called by many goroutines.
type Assessor struct {
	Options
	seen *seen

	waits atomic.Pointer[error] // why reports stay in the box, nil: they do not

	mu     sync.Mutex
	record Record
	counts map[Count]uint64
	slow   map[string]time.Time // domains whose keys took too long, and when
	away   map[string]time.Time // nodes that took no report, and when

	saved saved // of Run alone
}

// Kind names what a report is about, in metrics.
type Kind string

// The kinds.
const (
	LateBounce Kind = "late_bounce"
	Complaint  Kind = "complaint"
	Feedback   Kind = "feedback"
	NoFailure  Kind = "no_failure" // a delivery report that nothing failed for good by
	Unknown    Kind = "unknown"    // none that could be read
)

// Result is what became of what a report says of one recipient.
type Result string

// The results.
const (
	Counted    Result = "counted"    // for suppression, if the stream has it
	Uncounted  Result = "uncounted"  // an event and nothing more
	Repeated   Result = "repeated"   // told before
	Old        Result = "old"        // of a message older than MaxAge
	Unverified Result = "unverified" // without a mark of ours
	HandedOver Result = "handedover" // to the host of the fleet that sent the message
)

// Count is a kind and a result.
type Count struct {
	Kind   Kind
	Result Result
}

// Finding is what came of one recipient of a report.
type Finding struct {
	Count
	ID        spool.ID
	Recipient string // "" if the report tells none that the message had
	Stream    string
	Why       string // it does not count; "" if it does
}

// New opens what is remembered in the state directory.
func New(o Options) *Assessor {
	a := &Assessor{Options: o, counts: make(map[Count]uint64), slow: make(map[string]time.Time), away: make(map[string]time.Time)}
	if a.LookupKey == nil {
		a.LookupKey = func(ctx context.Context, name string) ([]string, error) {
			return o.Settings.Now().Resolver.Key(ctx, name)
		}
	}
	path := ""
	if o.State != "" {
		path = filepath.Join(o.State, seenFile)
	}
	a.seen = openSeen(path, time.Now(), o.Log)
	var err error
	if a.record, err = ReadRecord(o.State); err != nil {
		o.Log.Warn("what was counted of reports is lost", "err", err)
	}
	a.saved.Record = a.record
	return a
}

// Counts are those since the start.
func (a *Assessor) Counts() map[Count]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := make(map[Count]uint64, len(a.counts))
	for k, n := range a.counts {
		m[k] = n
	}
	return m
}

func (a *Assessor) count(c Count) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[c]++
}

// isSlow reports whether a domain's keys took too long lately.
func (a *Assessor) isSlow(domain string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.slow[domain]
	return ok && now.Sub(at) < slowFor
}

// tookLong notes that a domain's keys took too long.
func (a *Assessor) tookLong(domain string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.slow) >= maxSlow {
		clear(a.slow)
	}
	a.slow[domain] = now
}

// Run takes what is in the box, again and again, until ctx ends.
func (a *Assessor) Run(ctx context.Context) {
	loop.Every(ctx, lookEvery, func(now time.Time) {
		err := a.empty(ctx)
		if err != nil && a.Trouble() == "" {
			a.Log.Error("reports that came back wait in the spool", "err", err)
		}
		a.waits.Store(&err)
		a.save(now)
	})
	if err := a.seen.close(); err != nil {
		a.Log.Error("stopping", "err", err)
	}
	a.save(time.Time{})
}

// Trouble says why reports that came back wait in the spool, "" if they do not.
func (a *Assessor) Trouble() string {
	if err := a.waits.Load(); err != nil && *err != nil {
		return "reports that came back wait in the spool: " + (*err).Error()
	}
	return ""
}

// empty takes all that is in the box now.
func (a *Assessor) empty(ctx context.Context) error {
	names, err := a.Box.Waiting()
	if err != nil || len(names) == 0 {
		return err
	}
	work := make(chan string)
	var all sync.WaitGroup
	var mu sync.Mutex
	var full atomic.Bool
	for range min(readers, len(names)) {
		all.Go(func() {
			for name := range work {
				if e := a.takeOut(ctx, name); e != nil {
					mu.Lock()
					err = e
					mu.Unlock()
					if errors.Is(e, errNotRemembered) {
						full.Store(true) // nor would be the others: they are not read for nothing
					}
				}
			}
		})
	}
	for _, name := range names {
		if ctx.Err() != nil || full.Load() {
			break
		}
		work <- name
	}
	close(work)
	all.Wait()
	return err
}

// takeOut takes one message of the box. It stays there if what follows from it cannot be
// made to last.
func (a *Assessor) takeOut(ctx context.Context, name string) error {
	b, err := a.Box.Read(name)
	if err != nil {
		return err
	}
	if err := a.takeGuarded(ctx, b); err != nil && !errors.Is(err, feedback.ErrNone) {
		return err
	}
	if ctx.Err() != nil {
		return nil // a signature may not have been looked at; the next agent reads it anew
	}
	return a.Box.Remove(name)
}

// takeGuarded takes a message, and counts one as unknown over which something panics: left in
// the box it would stop every agent that starts, and all mail with it.
func (a *Assessor) takeGuarded(ctx context.Context, message []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			a.count(Count{Unknown, Unverified})
			a.Log.Error("panic over a report that came back, leaving it out", "panic", v, "stack", string(debug.Stack()))
			err = nil
		}
	}()
	_, err = a.Take(ctx, message, time.Now())
	return err
}

// Take judges a message and does what follows. ErrNone of package feedback says that it is no
// report; another error, that nothing was done, and that it is to be tried again.
func (a *Assessor) Take(ctx context.Context, message []byte, now time.Time) ([]Finding, error) {
	r, err := feedback.Parse(message)
	if err != nil {
		a.count(Count{Unknown, Unverified})
		return nil, err
	}
	set := a.Settings.Now()
	m, ok := newestMark(a.marks(set), r.Received)
	if !ok {
		c := Count{kindOf(r, nil), Unverified}
		a.count(c)
		return []Finding{{Count: c, Why: "no mark of ours came back with it"}}, nil
	}
	a.cameBack(now)
	if m.Node != "" && a.handOver(ctx, m.Node, message) {
		c := Count{kindOf(r, nil), HandedOver}
		a.count(c)
		return []Finding{{Count: c, ID: m.ID, Stream: m.Stream, Why: "node " + m.Node + ", which sent the message, judges it"}}, nil
	}
	j := judge{a: a, set: set, report: r, mark: m, message: message, now: now}
	var found []Finding
	for _, x := range j.about() {
		f, err := j.settle(ctx, x)
		if err != nil {
			return found, err
		}
		a.count(f.Count)
		found = append(found, f)
	}
	return found, nil
}

// marks are the keys of all marks that are ours.
func (a *Assessor) marks(set *settings.Settings) *trace.Keys {
	keys := trace.NewKeys(a.Key, set.Config.Feedback.Secrets...)
	if a.Members != nil {
		keys = keys.With(a.Members())
	}
	return &keys
}

// newestMark is the mark of the last of our hosts that had the message, whose field stands
// on top; one that tells its recipients before one that does not.
func newestMark(keys *trace.Keys, received []string) (best trace.Mark, ok bool) {
	for _, v := range received {
		if m, holds := keys.Read(v); holds && (!ok || m.Sealed) {
			best, ok = m, true
			if m.Sealed {
				break
			}
		}
	}
	return best, ok
}

// kindOf is the kind of what is said of a recipient; nil is none in particular.
func kindOf(r *feedback.Report, x *feedback.Recipient) Kind {
	switch {
	case r.Complains():
		return Complaint
	case r.Kind == feedback.Complaint:
		return Feedback
	case x == nil && len(r.Recipients) > 0:
		x = &r.Recipients[0]
	}
	if x != nil && x.Failed() {
		return LateBounce
	}
	return NoFailure
}

// judge is one report with its mark.
type judge struct {
	a       *Assessor
	set     *settings.Settings
	report  *feedback.Report
	mark    trace.Mark
	message []byte
	now     time.Time
	signed  map[string]bool // by domain: the receiver's signature holds
}

// told is what a report says of one recipient of the message.
type told struct {
	said    *feedback.Recipient // nil: no recipient is told
	address string              // "" if the message had none that is told
}

// about are the recipients of the message that the report is about. If it names none of
// them, it is about the message: that is one.
func (j *judge) about() []told {
	var list []told
	for i := range j.report.Recipients {
		x := &j.report.Recipients[i]
		switch {
		case j.mark.For(x.Final):
			list = append(list, told{x, j.spelled(x.Final)})
		case j.mark.For(x.Original):
			list = append(list, told{x, j.spelled(x.Original)})
		}
	}
	switch {
	case len(list) > 0:
		return list
	case len(j.report.Recipients) > 0:
		return []told{{said: &j.report.Recipients[0]}}
	case j.report.Kind == feedback.Complaint && j.mark.Recipient != "":
		// Most complaints tell no recipient (RFC 6590), so the mark does.
		return []told{{address: j.mark.Recipient}}
	}
	return []told{{}}
}

// spelled is a recipient's address as the message had it, where the mark tells: letters that
// are the same but for case are many beyond ASCII, and one recipient is to be one.
func (j *judge) spelled(address string) string { return cmp.Or(j.mark.Recipient, address) }

// settle judges what is said of a recipient, and does what follows.
func (j *judge) settle(ctx context.Context, x told) (Finding, error) {
	m := &j.mark
	f := Finding{Count: Count{kindOf(j.report, x.said), Counted}, ID: m.ID, Recipient: x.address, Stream: m.Stream}
	if f.Kind == NoFailure {
		f.Result, f.Why = Uncounted, "nothing failed"
		return f, nil
	}
	if m.Sealed && j.now.Sub(m.Day) > MaxAge+24*time.Hour { // the day is that of its beginning
		f.Result, f.Why = Old, fmt.Sprintf("the message is older than %d days", MaxAge/(24*time.Hour))
		return f, nil
	}
	if f.Why = j.doubt(ctx, x); f.Why != "" {
		f.Result = Uncounted
	}
	if f.Kind == Feedback {
		f.Result, f.Why = Uncounted, "a report of type "+j.report.Type
	}
	day := m.Day
	if !m.Sealed {
		day = j.now
	}
	again, err := j.a.seen.add(day, m.ID, m.QueueID, x.address, string(f.Kind)+" "+string(f.Result), j.now)
	if err != nil {
		return f, err
	}
	if again {
		f.Result, f.Why = Repeated, "it was told before"
		return f, nil
	}
	j.follow(ctx, &f, x)
	return f, nil
}

// doubt says why a report of a recipient does not count, "" if it does.
func (j *judge) doubt(ctx context.Context, x told) string {
	address := x.address
	switch {
	case !j.mark.Sealed:
		return "the mark tells no recipient"
	case address == "":
		return "it is about no recipient of the message"
	case j.mark.Recipient != "":
		return ""
	case x.said == nil || x.said.Final != address:
		return "others had the same copy, and the receiver speaks of another address"
	}
	domain := strings.ToLower(address[strings.LastIndexByte(address, '@')+1:])
	holds, ok := j.signed[domain]
	if !ok {
		holds = j.signature(ctx, domain)
		if j.signed == nil {
			j.signed = make(map[string]bool)
		}
		j.signed[domain] = holds
	}
	if !holds {
		return "others had the same copy, and the receiver has not signed it"
	}
	return ""
}

// follow does what follows from a report that is new: suppression, log, events.
func (j *judge) follow(ctx context.Context, f *Finding, x told) {
	a, m := j.a, &j.mark
	d := &event.Delivery{
		Time: j.now, ID: m.ID, Ordinal: m.Ordinal, To: f.Recipient, Relay: "none", Arrived: m.Day, FeedbackType: j.report.Type, Reporter: j.report.Reporter, Uncounted: f.Why,
		Envelope: &spool.Envelope{Origin: spool.Diverted, QueueID: m.QueueID, Stream: m.Stream},
		Class:    outcome.ClassUndefined,
	}
	domain := strings.ToLower(f.Recipient[strings.LastIndexByte(f.Recipient, '@')+1:])
	q := j.set.QueueOf(domain)
	d.Domain, d.Queue, d.Simulated = domain, q.Name, j.set.Config.Simulates(domain)
	if f.Recipient != "" {
		// From the cache most often: mail went there a moment or some days ago.
		ask, done := context.WithTimeout(ctx, siteFor)
		if rt, err := j.set.Route(ask, domain, false); err == nil {
			d.Site, d.Queue = rt.Site, rt.Queue.Name // a provider has domains that nobody lists
		}
		done()
	}
	counts := f.Why == ""
	switch f.Kind {
	case LateBounce:
		d.Status = event.LateBounce
		j.read(d, x.said)
		class := d.Class
		if !d.Hard {
			class = outcome.ClassUndefined
		}
		if counts && a.Bounced.BouncedLate(m.Stream, f.Recipient, class, j.now) {
			a.tell(d, "address has bounced too often")
		}
	case Complaint:
		d.Status, d.Class = event.Complaint, outcome.ClassComplaint
		d.Reason = j.report.Type + ", by " + cmp.Or(j.report.Reporter, "a report that names nobody")
		if counts && a.Bounced.Complained(m.Stream, f.Recipient, j.now) {
			a.tell(d, "recipient has complained")
		}
	default:
		d.Status = event.Feedback
		d.Reason = j.report.Type + ", by " + cmp.Or(j.report.Reporter, "a report that names nobody")
	}
	a.Mail.CameBack(d)
	for _, l := range a.Listeners {
		l.Delivery(d)
	}
}

// tell logs that an address is on the suppression list from now on.
func (a *Assessor) tell(d *event.Delivery, what string) {
	p := a.Bounced.Policy()
	to, _ := a.Mail.Shown(d)
	a.Log.Info(what, "to", "<"+to+">", "stream", d.Envelope.Stream, "class", d.Class, "suppressed", p.ModeOf(d.Envelope.Stream) == suppress.Drop)
}

// read reads what a receiver said of a recipient as if it had said so to us.
func (j *judge) read(d *event.Delivery, x *feedback.Recipient) {
	at := outcome.Attempt{Stage: outcome.Rcpt, Code: x.Code, Enhanced: x.Status, Text: x.Diagnostic, To: d.To, Peer: x.Remote}
	if at.Code == 0 {
		at.Code = 550
		if strings.HasPrefix(x.Status, "4.") {
			at.Code = 450 // tried until it was too old
		}
	}
	if at.To == "" {
		at.To = x.Final
	}
	dec := j.set.RetryPolicy(&j.set.Config.General).Decide(j.now, at)
	d.Class, d.Hard, d.Rule, d.Code, d.Reason = dec.Class, dec.Hard, dec.Rule, x.Code, x.Diagnostic
	if d.Enhanced = x.Status; d.Enhanced == "" {
		d.Enhanced = dec.Enhanced
	}
}
