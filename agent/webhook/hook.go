package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
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
	seen   int    // turns, when it was read
	size   int    // most events of the next request
	tries  int    // how often window[0] was refused alone
	failed int    // requests in a row that the receiver could not take
	asides int    // events in a row that were set aside

	mu        sync.Mutex
	kept      state
	read      eventlog.Cursor // behind what was read, which may not be in the log any more
	coming    uint64          // events that the window tells are lost
	told      uint64          // of what is lost: the log tells it once
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
		if err := h.fill(from); err != nil {
			h.failed++
			h.fail("the log of events cannot be read: "+err.Error(), true)
			return backOff(h.failed, 0)
		}
		if len(h.window) == 0 {
			h.advance(h.batch.Next, 0, h.coming)
			if h.batch.More {
				return 0
			}
			return idleFor
		}
	}
	items := h.window[:h.fits()]
	a := h.post(ctx, h.request(typeEvents, items))
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
			return backOff(h.tries, 0)
		}
		return h.refuse(&items[0], a.text)
	default:
		h.failed++
		h.fail(a.text, true)
		return backOff(h.failed, a.after)
	}
}

// fill reads into the window what follows a place.
func (h *hook) fill(from eventlog.Cursor) error {
	b := &h.batch
	if err := h.log.Read(from, readEvents, b); err != nil {
		return err
	}
	h.tries = 0
	var lost, coming uint64 // lost: since the last item
	add := func(r *eventlog.Record, next int) {
		if r.Event == eventlog.Gap {
			lost, coming = lost+r.Lost, coming+r.Lost
		}
		if wantsRecord(&h.config, r) {
			e := eventOf(r)
			x := h.item(&e)
			x.lost, lost = lost, 0
			if x.after = b.Next; next < len(b.Records) {
				x.after = b.Places[next]
			}
			h.window = append(h.window, x)
		}
	}
	if b.Lost > 0 {
		at := time.Now()
		if len(b.Records) > 0 {
			at = b.Records[0].Time
		}
		add(&eventlog.Record{Time: at, Event: eventlog.Gap, Due: at, Lost: b.Lost}, 0)
	}
	for i := range b.Records {
		add(&b.Records[i], i+1)
	}
	if n := len(h.window); n > 0 { // it ends the batch: what follows is not for the webhook
		h.window[n-1].after = b.Next
		h.window[n-1].lost += lost
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read, h.coming = b.Next, coming
	h.tellLost()
	return nil
}

// lost is how many events nobody can post any more: those that the webhook has passed, those
// that it has read of, and those that the log has dropped since.
func (h *hook) lost() uint64 {
	n := h.kept.Lost + h.coming
	if start := h.log.Start().Seq; start > h.read.Seq {
		n += start - h.read.Seq
	}
	return n
}

// tellLost logs that more events are lost.
func (h *hook) tellLost() {
	n := h.lost()
	if n <= h.told {
		return
	}
	h.sender.o.Log.Warn("events are lost that had waited for a webhook too long, or could not be written; those of other webhooks are counted with them", "webhook", h.config.Name, "events", n-h.told)
	h.told, h.lostAt = n, time.Now()
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

// advance moves the cursor behind events that were taken or lost, or are not for the webhook,
// unless others have moved it meanwhile. It is written now and then.
func (h *hook) advance(to eventlog.Cursor, taken int, lost uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.turns != h.seen {
		return
	}
	moved := to != h.kept.Cursor
	h.kept.Cursor, h.kept.Taken, h.kept.Lost = to, h.kept.Taken+uint64(taken), h.kept.Lost+lost
	h.coming -= lost
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
	lost := uint64(0)
	for i := range items {
		lost += items[i].lost
	}
	h.advance(items[len(items)-1].after, len(items), lost)
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
func (h *hook) refuse(x *item, why string) time.Duration {
	h.mu.Lock()
	err := h.setAside(Aside{ID: x.id, Time: time.Now(), Answer: why, Event: json.RawMessage(x.json)})
	if err == nil {
		h.asideAt = time.Now()
	}
	h.mu.Unlock()
	if err != nil {
		h.failed++
		h.fail("an event that was refused cannot be set aside: "+err.Error(), true)
		return backOff(h.failed, 0)
	}
	h.sender.o.Log.Warn("a webhook refuses an event; it is set aside (millrace webhook list)", "webhook", h.config.Name, "event", x.id, "id", x.about, "answer", maillog.WithoutLocalParts(why))
	h.advance(x.after, 0, x.lost)
	h.window, h.tries = h.window[1:], 0
	if h.asides++; h.asides > patience {
		return backOff(h.asides-patience, 0)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.since, h.why = time.Time{}, "" // the event was at fault
	return 0
}

// fail notes that the receiver took nothing, and logs the first time if tell is set. What it
// said may have addresses, and is told to more than those who may see them.
func (h *hook) fail(why string, tell bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = maillog.WithoutLocalParts(why)
	h.tellLost()
	if h.since.IsZero() {
		h.since = time.Now()
		if tell {
			h.sender.o.Log.Warn("a webhook is not taken; its events wait", "webhook", h.config.Name, "reason", h.why)
		}
	}
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
	e := Event{EventID: hashed("evt_", fmt.Append(nil, "test ", now.UnixNano())), Time: stamp(now), Event: "test", Recipient: "test@example.invalid", Reply: "a test by millrace webhook test"}
	x := h.item(&e)
	a := h.post(ctx, h.request(typeTest, []item{x}))
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
