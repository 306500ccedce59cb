package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/maillog"
)

const (
	// readEvents is how many events of the log are read at once.
	readEvents = 500
	// idleFor is the time between two looks at a log that had nothing new.
	idleFor = time.Second
	// saveEvery is how long what was taken may be unwritten; a crash posts it again.
	saveEvery = time.Second
	// skipEvery is the same for what others alone wanted, so that the log can drop it.
	skipEvery = time.Minute

	// firstWait and maxWait bound the waits after what failed.
	firstWait, maxWait = 500 * time.Millisecond, 10 * time.Minute
	// maxRetryAfter bounds what a receiver may ask for.
	maxRetryAfter = time.Hour
	// triesAlone is how often an event is refused until it is set aside.
	triesAlone = 5
	// patience is how many events in a row are set aside without a wait between them.
	patience = 20

	// failingAfter is how long a receiver may be away until an admin is told: it may
	// be starting anew. toldFor is how long is told what happened once.
	failingAfter = 5 * time.Minute
	toldFor      = time.Hour
)

// hook is one webhook. run alone posts; what stands below mu is everybody's.
type hook struct {
	sender   *Sender
	config   config.Webhook
	hostname string
	log      *eventlog.Log
	client   *http.Client
	cancel   context.CancelFunc // nil: it does not run
	ended    chan struct{}
	woken    chan struct{} // has one when a wait is to end

	batch  eventlog.Batch
	window []item // what was read and waits, in order
	seen   int    // turns, when the window was read
	size   int    // most events of the next request
	tries  int    // how often window[0] was refused alone
	failed int    // requests in a row that the receiver could not take
	asides int    // events in a row that were set aside

	mu        sync.Mutex
	kept      state
	saved     time.Time
	unsaved   bool   // events were taken since
	unwritten string // why the cursor could not be written last; "": it could
	turns     int    // how often the cursor was moved by others than run
	aside     []Aside
	since     time.Time // when the receiver began to fail; zero: it does not
	why       string    // it does, or nothing is posted
	last      time.Time // when it took something last; zero: not since the start
	lostAt    time.Time // when events were found to be lost
	asideAt   time.Time // when one was set aside
}

func newHook(s *Sender, c config.Webhook, l *eventlog.Log) *hook {
	h := &hook{sender: s, config: c, hostname: s.policy.Hostname, log: l, woken: make(chan struct{}, 1)}
	h.size = h.most()
	h.load(l)
	h.why = c.Refused
	var err error
	if h.client, err = s.newClient(&c); err != nil {
		h.why = err.Error()
	}
	return h
}

// most is how many events a request has at most.
func (h *hook) most() int {
	if h.config.Form == config.FormListmonk {
		return 1
	}
	return maxEvents
}

// end stops a webhook, and waits until it has.
func (h *hook) end() {
	if h.cancel != nil {
		h.cancel()
		<-h.ended
	}
}

func (h *hook) run(ctx context.Context) {
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if err := h.save(); err != nil {
			h.sender.o.Log.Error("the place of a webhook is not written: its last events are posted again", "webhook", h.config.Name, "err", err)
		}
		if h.client != nil {
			h.client.CloseIdleConnections()
		}
	}()
	if h.client == nil || h.config.Refused != "" {
		h.sender.o.Log.Error("nothing is posted to a webhook; its events wait", "webhook", h.config.Name, "reason", h.why)
		<-ctx.Done()
		return
	}
	for ctx.Err() == nil {
		wait := h.turn(ctx)
		if wait == 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.woken:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// turn posts one request, or finds nothing to post. It returns how long to wait then.
func (h *hook) turn(ctx context.Context) time.Duration {
	h.mu.Lock()
	from := h.kept.Cursor
	if h.turns != h.seen {
		h.window, h.tries, h.seen = nil, 0, h.turns
	}
	h.mu.Unlock()
	if len(h.window) == 0 {
		if err := h.read(from); err != nil {
			h.failed++
			h.fail("the log of events cannot be read: "+err.Error(), true)
			return backOff(h.failed, 0)
		}
		if len(h.window) == 0 {
			h.advance(h.batch.Next, 0)
			if h.batch.More {
				return 0
			}
			return idleFor
		}
	}
	items := h.window[:h.fits()]
	id, body := h.request(items)
	a := h.post(ctx, id, body)
	switch {
	case ctx.Err() != nil && !a.taken():
		return 0 // it says nothing of the receiver
	case a.taken():
		h.taken(items)
		return 0
	case a.refused() && len(items) > 1:
		h.size = len(items) / 2
		return 0
	case a.refused():
		h.tries++
		h.fail(a.text, false)
		if h.tries < triesAlone {
			return backOff(h.tries, a.after)
		}
		return h.refuse(&items[0], &a)
	default:
		h.failed++
		h.fail(a.text, true)
		return backOff(h.failed, a.after)
	}
}

// read fills the window with what follows a place.
func (h *hook) read(from eventlog.Cursor) error {
	b := &h.batch
	if err := h.log.Read(from, readEvents, b); err != nil {
		return err
	}
	h.tries = 0
	add := func(r *eventlog.Record, at eventlog.Cursor) {
		if r.Event == eventlog.Gap {
			h.lost(r.Lost)
		}
		if wantsRecord(&h.config, r) {
			h.window = append(h.window, newItem(&h.config, r, at))
		}
	}
	if b.Lost > 0 {
		at := time.Now()
		if len(b.Records) > 0 {
			at = b.Records[0].Time
		}
		add(&eventlog.Record{Time: at, Event: eventlog.Gap, Due: at, Lost: b.Lost}, from)
	}
	for i := range b.Records {
		add(&b.Records[i], b.Places[i])
	}
	for i := range h.window {
		if i+1 < len(h.window) {
			h.window[i].after = h.window[i+1].at
		} else {
			h.window[i].after = b.Next
		}
	}
	return nil
}

// lost counts events that nobody can post any more.
func (h *hook) lost(n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept.Lost += n
	h.lostAt = time.Now()
	h.sender.o.Log.Warn("events are lost that had waited for a webhook too long, or could not be written; those of other webhooks are counted with them", "webhook", h.config.Name, "events", n)
}

// fits is how many events of the window the next request has.
func (h *hook) fits() (n int) {
	octets := 0
	for n < min(h.size, len(h.window)) {
		if octets += len(h.window[n].json); n > 0 && octets > maxBody {
			break
		}
		n++
	}
	return n
}

// advance moves the cursor behind events that were taken, or are not for the webhook, unless
// a replay has moved it meanwhile. It is written now and then.
func (h *hook) advance(to eventlog.Cursor, taken int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turns != h.seen {
		return
	}
	moved := to != h.kept.Cursor
	h.kept.Cursor, h.kept.Taken = to, h.kept.Taken+uint64(taken)
	h.unsaved = h.unsaved || taken > 0
	since := time.Since(h.saved)
	switch {
	case h.unsaved && (since >= saveEvery || h.config.Form == config.FormListmonk):
	case moved && since >= skipEvery:
	default:
		return
	}
	if err := h.save(); err != nil && h.unwritten == "" {
		h.unwritten = err.Error()
		h.sender.o.Log.Error("the place of a webhook in the log cannot be written: a crash would post its events again", "webhook", h.config.Name, "err", err)
	} else if err == nil {
		h.unwritten = ""
	}
}

// taken goes on behind events that the receiver has.
func (h *hook) taken(items []item) {
	h.window = h.window[len(items):]
	h.size = min(2*max(h.size, 1), h.most())
	h.tries, h.failed, h.asides = 0, 0, 0
	h.advance(items[len(items)-1].after, len(items))
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.since.IsZero() {
		h.sender.o.Log.Info("a webhook is taken again", "webhook", h.config.Name, "failed_for", time.Since(h.since).Round(time.Second))
	}
	h.since, h.why, h.last = time.Time{}, "", time.Now()
	if len(h.aside) == 0 {
		return
	}
	posted := make(map[string]bool, len(items)) // by a replay
	for i := range items {
		posted[items[i].id] = true
	}
	if _, err := h.listNoMore(func(a *Aside) bool { return posted[a.ID] }); err != nil {
		h.sender.o.Log.Warn("events that a webhook has taken now are still listed", "webhook", h.config.Name, "err", err)
	}
}

// refuse sets an event aside, and goes on behind it.
func (h *hook) refuse(x *item, a *answer) time.Duration {
	h.mu.Lock()
	err := h.setAside(Aside{ID: x.id, Time: time.Now(), Answer: a.text, Event: json.RawMessage(x.json)})
	if err == nil {
		h.asideAt = time.Now()
	}
	h.mu.Unlock()
	if err != nil {
		h.failed++
		h.fail("an event that was refused cannot be set aside: "+err.Error(), true)
		return backOff(h.failed, 0)
	}
	h.sender.o.Log.Warn("a webhook refuses an event; it is set aside (millrace webhook list)", "webhook", h.config.Name, "event", x.id, "id", x.about, "answer", maillog.WithoutLocalParts(a.text))
	h.advance(x.after, 0)
	h.window, h.tries = h.window[1:], 0
	if h.asides++; h.asides > patience {
		return backOff(h.asides-patience, a.after)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.why = time.Time{}, "" // the event was at fault
	return 0
}

// fail notes that the receiver took nothing, and logs the first time if tell is set.
func (h *hook) fail(why string, tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		h.since = time.Now()
		if tell {
			h.sender.o.Log.Warn("a webhook is not taken; its events wait", "webhook", h.config.Name, "reason", maillog.WithoutLocalParts(why))
		}
	}
	h.why = why
}

// backOff is how long to wait after so many failures in a row: half of a span that doubles, and
// as much again as chance has it, so that webhooks that failed together come apart.
func backOff(failures int, asked time.Duration) time.Duration {
	d := maxWait
	if failures < 12 { // 2^11 times firstWait is longer
		d = min(firstWait<<(max(failures, 1)-1), maxWait)
	}
	return max(d/2+rand.N(d/2), min(asked, maxRetryAfter))
}

// rewind has the webhook go on from a place that it has passed.
func (h *hook) rewind(to eventlog.Cursor) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !to.Before(h.kept.Cursor) {
		return nil // all of it waits still
	}
	before := h.kept.Cursor
	h.kept.Cursor = to
	if err := h.save(); err != nil {
		h.kept.Cursor = before
		return fmt.Errorf("its place in the log cannot be written: %w", err)
	}
	h.again()
	return nil
}

// again has run read its window anew, and end its wait.
func (h *hook) again() {
	h.turns++
	select {
	case h.woken <- struct{}{}:
	default:
	}
}

// forget lists no events any more that are about an address.
func (h *hook) forget(about func(recipient, reply string) bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.again() // the window may have some
	return h.listNoMore(func(a *Aside) bool {
		var x struct{ Recipient, Email, Reply, Meta string }
		return json.Unmarshal(a.Event, &x) == nil && (about(x.Recipient, x.Reply) || about(x.Email, x.Meta))
	})
}

// test posts one event that says so. To listmonk it is a soft bounce of an address that
// nobody has.
func (h *hook) test(ctx context.Context) (string, error) {
	if h.client == nil || h.config.Refused != "" {
		return "", fmt.Errorf("nothing is posted to it: %s", h.why)
	}
	now := time.Now()
	e := Event{EventID: hashed("evt_", fmt.Sprint("test ", now.UnixNano())), Time: stamp(now), Event: "test", Recipient: "test@example.invalid", Reply: "a test by millrace webhook test"}
	body := encode(bounceOf(&e))
	if h.config.Form != config.FormListmonk {
		body = encode(message{Type: typeTest, Timestamp: e.Time, Data: data{Host: h.hostname, Webhook: h.config.Name, Events: []json.RawMessage{encode(e)}}})
	}
	a := h.post(ctx, e.EventID, body)
	if !a.taken() {
		return "", fmt.Errorf("it is not taken: %s", a.text)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select { // a wait for the receiver is over
	case h.woken <- struct{}{}:
	default:
	}
	return a.text, nil
}

// Status is how a webhook stands.
type Status struct {
	Name, Form string
	Host       string // of its URL, with the scheme; the rest may be a secret
	Waiting    uint64 // events of the log, those for others with them
	Taken      uint64
	Lost       uint64
	Gone       uint64  // that had been set aside, and are not listed any more
	Aside      []Aside // the oldest first
	Since      time.Time
	Why        string
	Last       time.Time
	Refused    string // why nothing is posted; "": it is

	unwritten       string
	lostAt, asideAt time.Time
}

func (h *hook) status(l *eventlog.Log) Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := Status{
		Name: h.config.Name, Form: string(h.config.Form), Taken: h.kept.Taken, Lost: h.kept.Lost, Gone: h.kept.Gone, Aside: h.aside,
		Since: h.since, Why: h.why, Last: h.last, Refused: h.config.Refused, unwritten: h.unwritten, lostAt: h.lostAt, asideAt: h.asideAt,
	}
	if u, err := url.Parse(h.config.URL); err == nil {
		st.Host = u.Scheme + "://" + u.Host
	}
	if end := l.End().Seq; end > h.kept.Cursor.Seq {
		st.Waiting = end - h.kept.Cursor.Seq
	}
	return st
}

// Failing reports whether nothing is taken, for longer than a receiver needs to start.
func (s *Status) Failing(now time.Time) bool {
	return s.Refused != "" || !s.Since.IsZero() && now.Sub(s.Since) >= failingAfter
}

// trouble is what an admin should know; "" if all is well.
func (s *Status) trouble(now time.Time) string {
	name := "webhook " + s.Name
	switch {
	case s.Refused != "":
		return name + ": nothing is posted, " + s.Refused
	case s.Failing(now):
		return fmt.Sprintf("%s has not been taken since %s, and %d events wait: %s", name, s.Since.Format(time.RFC3339), s.Waiting, s.Why)
	case s.unwritten != "":
		return name + ": its place in the log cannot be written: " + s.unwritten
	case !s.lostAt.IsZero() && now.Sub(s.lostAt) < toldFor:
		return fmt.Sprintf("%s: events are lost, %d in all, the last found at %s", name, s.Lost, s.lostAt.Format(time.RFC3339))
	case !s.asideAt.IsZero() && now.Sub(s.asideAt) < toldFor:
		return fmt.Sprintf("%s: an event was refused at %s, and set aside: millrace webhook list", name, s.asideAt.Format(time.RFC3339))
	}
	return ""
}
