// Package warmup lets new source addresses begin with little mail, and have more each day that
// was good, as receivers distrust an address that nobody knows and that sends much.
//
// A Warmup has a course for each address and provider: a plan of shares, one for each day, and
// how far it has come. Warming says whether an address is on a course; Share is what
// package queue asks before mail leaves for the first time (queue.Budget). Delivery hears what
// became of it, List tells, Run writes, Close writes for the last time.
//
// # What is counted
//
// An address is one address of IPv4, and a /64 of IPv6, since receivers count that as one
// sender. A provider is a [[queue]]; all domains that none lists are one, the general queue, as
// in package breaker. A share counts recipients that are tried for the first time: a message
// that was tried belongs to its address, so its further tries pass, and count no more.
// Each receiver sees its own part only, so a plan holds for each provider by itself.
//
// # When a day counts
//
// At midnight of the host's zone the day that ends is judged (judge.go): the course goes on if
// it was good and used, else it stays or steps back. What a day was is kept, so a clock that
// shows another day for a while, also one years off, moves nothing: see step. A plan that
// was changed goes on with the day's share or less: see fit.
// An address that has sent nothing to a provider for a month begins anew there, also one that
// had come to its end (SendGrid's advice, see Standard).
//
// # What is durable
//
// The counts of the day are those of a quotas.Book with a file of its own, warmup-counts.json: no
// share is exceeded by a crash, a restart or a clock that is set, and an unfinished block of a
// hundredth counts as used. The courses are in warmup.json, which is written within seconds
// of a change of the day, else each minute, and at a stop: a crash costs a minute of outcomes,
// and of the days nothing.
//
// A file that makes no sense is renamed and told. Its safe form is this: for the rest of that
// day no share is left, as nobody knows what was used of it, and from the next day on courses
// that are not known begin with their first day. Too little costs time, too much the
// reputation. A file that cannot be read is tried again, and no share is left meanwhile.
package warmup

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/quotas"
)

// Plan is how an address warms up.
type Plan struct {
	Name string
	Days []int // shares: recipients of a provider on each day
	Bars Bars
}

// Key names a course.
type Key struct {
	Address  string `json:"address"` // "192.0.2.1", "2001:db8::/64"
	Provider string `json:"provider"`
}

// Options are what a Warmup works with.
type Options struct {
	Log       *slog.Logger
	Directory string         // of its files; "": all is kept in memory alone
	Zone      *time.Location // of its days; nil: the host's
	// Bound, if there is one, is how much of an address's share at a provider this node may count
	// on a day, of one that it shares with other nodes. It is called with locks held.
	Bound func(k Key, day string, share int) int
	// Granted is called when there is room that was not there when Share.Room was asked.
	Granted func()
}

const (
	planFile  = "warmup.json"
	countFile = "warmup-counts.json"
	// keptDays is how many days of a course are kept.
	keptDays = 90
	// keptMail is of how many days' mail complaints are counted.
	keptMail = 8
	// idleDays is after how many days without mail a course begins anew.
	idleDays = 30
	// lookEvery is how often there is a look at the day and at what is to be written.
	lookEvery = 5 * time.Second
)

// Warmup has the courses. Its methods may be called by many goroutines.
type Warmup struct {
	o    Options
	path string // of the courses; "": in memory alone
	book *quotas.Book

	mu        sync.Mutex
	plans     map[string]Plan // by address
	courses   map[Key]*course
	providers map[string]*provider
	unread    error // the courses could not be read
	dirty     bool  // the file lacks something
	urgent    bool  // and that is more than outcomes
	saved     time.Time
	news      []func() // lines to be logged
	failed    error    // it could not be written at the last try

	any     atomic.Bool            // an address has a plan
	lost    atomic.Pointer[string] // the day on which a file was found damaged; nil: never
	unsaved atomic.Bool            // the file lacks that
}

// course is how far an address has come at a provider.
type course struct {
	Key
	Days  []*Day `json:"days"`            // the oldest first
	Later []*Day `json:"later,omitempty"` // beyond what the clock shows, as it was set back

	share   *Share
	counter *quotas.Counter
	set     int // its limit
}

// provider is what is known of one apart from addresses: a feedback report does not tell which
// address its message came from.
type provider struct {
	Reported bool   `json:"complaints_seen,omitempty"` // ever
	Days     []seen `json:"days,omitempty"`            // the last ones, the oldest first
}

// seen is what was seen of the mail to a provider that arrived on a day, from all addresses.
// Complaints come days later, and belong to the mail that they are about, as in package breaker.
type seen struct {
	Date       string `json:"date"` // UTC, as marks tell no more of mail (event.Delivery.Arrived)
	Accepted   int    `json:"accepted,omitempty"`
	Complaints int    `json:"complaints,omitempty"`
	Last       string `json:"last,omitempty"` // the day on which the last complaint came
}

// New returns the Warmup of a directory. Nothing is written before an address warms up.
func New(o Options, now time.Time) *Warmup {
	if o.Zone == nil {
		o.Zone = time.Local
	}
	w := &Warmup{o: o, plans: make(map[string]Plan), courses: make(map[Key]*course), providers: make(map[string]*provider), saved: now}
	counts := ""
	if o.Directory != "" {
		w.path, counts = filepath.Join(o.Directory, planFile), filepath.Join(o.Directory, countFile)
	}
	w.unread = w.load(now)
	book := quotas.Options{Path: counts, Log: o.Log, Granted: o.Granted, Damaged: func(err error) { w.damaged(err, now) }}
	if o.Bound != nil {
		book.Bound = func(k quotas.Key, day string, limit int) int { return o.Bound(Key{k.Stream, k.Provider}, day, limit) }
	}
	w.book = quotas.Open(book, now)
	return w
}

// damaged notes that a file was damaged: nothing is left of any share today.
func (w *Warmup) damaged(err error, now time.Time) {
	today := w.date(now)
	w.lost.Store(&today)
	w.unsaved.Store(true)
	w.o.Log.Error("what was known of warm-up is lost: nothing more is sent from addresses that warm up today, and courses that are not known begin anew tomorrow; "+
		"remedy: take warmup from addresses that are warm", "err", err)
}

// Address names what of a source address has one reputation.
func Address(a netip.Addr) string {
	if a.Is4() || !a.IsValid() {
		return a.String()
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().String()
}

// date is the day of a moment.
func (w *Warmup) date(t time.Time) string { return t.In(w.o.Zone).Format(time.DateOnly) }

// Use puts plans into force, by addresses (Address). Courses of others are kept as they are.
func (w *Warmup) Use(plans map[string]Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plans = plans
	w.any.Store(len(plans) > 0)
	for _, c := range w.courses {
		c.counter = nil // its share may be another
	}
}

// Any says whether any address has a plan.
func (w *Warmup) Any() bool { return w.any.Load() }

// Warming says whether an address is on a course at a provider.
func (w *Warmup) Warming(address, to string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.plans[address]
	if !ok {
		return false
	}
	c := w.courses[Key{address, to}]
	if c == nil {
		return true
	}
	w.turn(c, p, now)
	return c.done() == ""
}

// Counted is quotas.Book.Counted of the shares of the day.
func (w *Warmup) Counted(now time.Time, yield func(k Key, day string, share, counted int)) {
	w.book.Counted(now, func(k quotas.Key, day string, limit, counted int) {
		yield(Key{k.Stream, k.Provider}, day, limit, counted)
	})
}

// Share is what an address may send to a provider; nil if it has no plan.
func (w *Warmup) Share(address, to string) *Share {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.plans[address]; !ok {
		return nil
	}
	return w.course(Key{address, to}).share
}

// course returns the course of a key. It begins with the first mail.
func (w *Warmup) course(k Key) *course {
	c := w.courses[k]
	if c == nil {
		c = &course{Key: k}
		c.share = &Share{w: w, c: c}
		w.courses[k] = c
	}
	return c
}

// turn brings a course to the day of a moment. The caller holds mu.
func (w *Warmup) turn(c *course, p Plan, now time.Time) {
	today := w.date(now)
	if len(c.Later) > 0 || len(c.Days) > 0 && c.today().Date > today {
		w.step(c, today)
	}
	last := c.today()
	idle := c.idle(today)
	switch {
	case last != nil && last.Date == today:
		w.limit(c, last, p)
		return
	case last == nil && !c.share.asked, // no mail yet
		last != nil && last.Warm && !idle:
		return
	}
	next := 0
	if last != nil && !last.Warm && !idle {
		w.fit(last, p)
		last.Used = w.book.UsedOn(c.count(), last.Date)
		next = w.judge(c, last, p)
		w.tell(c, last, next, p)
	}
	w.changed()
	d := &Day{Date: today, Step: next}
	if len(c.Later) > 0 && c.Later[0].Date <= today { // the clock had shown this day before
		if x := c.Later[0]; x.Date == today && !x.Warm {
			*d = *x
			d.Step, d.Verdict, d.Bad = next, "", false
		}
		c.Later = slices.DeleteFunc(c.Later, func(x *Day) bool { return x.Date <= today })
	}
	c.Days = append(c.Days, d)
	if len(c.Days) > keptDays {
		c.Days = slices.Delete(c.Days, 0, len(c.Days)-keptDays)
	}
	if next >= len(p.Days) {
		d.Warm, d.Step, d.Last = true, 0, today
		w.log(slog.LevelInfo, "an address is warm", "address", c.Address, "queue", c.Provider)
		return
	}
	d.Share = p.Days[next]
	w.limit(c, d, p)
}

// step has a course know that the clock was set. Set back, it shows a day before the last: what
// came after is put aside, and forgotten only when the clock has come there again day by day. If it
// is there at once, it was wrong in between, as on a host that booted without a battery, and
// what was put aside is what happened.
func (w *Warmup) step(c *course, today string) {
	n := len(c.Days)
	for n > 0 && c.Days[n-1].Date > today {
		n--
	}
	if n < len(c.Days) {
		c.Later = append(slices.Clone(c.Days[n:]), c.Later...)
		c.Days = c.Days[:n:n]
		if d := c.today(); d != nil {
			d.Verdict, d.Bad = "", false // it is not over
		}
		w.changed()
	}
	if len(c.Later) == 0 || c.Later[0].Date > today || n > 0 && days(c.Days[n-1].Date, today) <= 1 {
		return
	}
	for n > 0 && c.Days[n-1].Date >= c.Later[0].Date {
		n--
	}
	c.Days = c.Days[:n:n]
	for len(c.Later) > 0 && c.Later[0].Date <= today {
		c.Days, c.Later = append(c.Days, c.Later[0]), c.Later[1:]
	}
	w.changed()
}

// fit fits a day to a plan that may have been changed since it began: to the step whose share it
// has, else to the last one that has no more than that.
func (w *Warmup) fit(d *Day, p Plan) {
	if d.Step < len(p.Days) && p.Days[d.Step] == d.Share {
		return
	}
	d.Step = 0
	for d.Step+1 < len(p.Days) && p.Days[d.Step+1] <= d.Share {
		d.Step++
	}
	d.Share = p.Days[d.Step]
	w.changed()
}

// log has a line logged by look: who brings a course up to date may hold others' mutexes.
func (w *Warmup) log(level slog.Level, text string, attrs ...any) {
	w.news = append(w.news, func() { w.o.Log.Log(context.Background(), level, text, attrs...) })
}

// tell logs how a day ended: the course advanced, stayed, or went a day back.
func (w *Warmup) tell(c *course, d *Day, step int, p Plan) {
	verdict := "advanced"
	switch {
	case step < d.Step:
		verdict = "back"
	case step == d.Step:
		verdict = "stayed"
	}
	attrs := []any{"address", c.Address, "queue", c.Provider, "plan", p.Name, "date", d.Date, "day", d.Step + 1, "share", d.Share, "used", d.Used, "verdict", verdict}
	switch {
	case d.Bad:
		w.log(slog.LevelWarn, "warm-up does not go on", append(attrs, "why", d.Verdict)...)
	case d.Verdict != "":
		w.log(slog.LevelInfo, "warm-up stays where it is", append(attrs, "why", d.Verdict)...)
	case step < len(p.Days):
		w.log(slog.LevelInfo, "warm-up goes on", append(attrs, "next", p.Days[step])...)
	default: // it is warm
		w.log(slog.LevelInfo, "warm-up goes on", attrs...)
	}
}

// limit has a day's share counted.
func (w *Warmup) limit(c *course, d *Day, p Plan) {
	if d.Warm {
		return
	}
	w.fit(d, p)
	share := d.Share
	if w.lostOn() == d.Date || w.unread != nil {
		share = 0
	}
	if c.counter == nil || c.set != share {
		c.counter = w.book.Set(c.count(), quotas.Quota{Limit: share, Zone: w.o.Zone, Spread: true})
		c.set = share
	}
}

// count names the count of a course.
func (c *course) count() quotas.Key {
	return quotas.Key{Stream: c.Address, Provider: c.Provider, Day: true}
}

// lostOn is the day on which a file was last found damaged; "" if that never was.
func (w *Warmup) lostOn() string {
	if day := w.lost.Load(); day != nil {
		return *day
	}
	return ""
}

func (w *Warmup) changed() { w.dirty, w.urgent = true, true }

// days is how many days lie between two dates.
func days(from, to string) int {
	a, err := time.Parse(time.DateOnly, from)
	b, err2 := time.Parse(time.DateOnly, to)
	if err != nil || err2 != nil {
		return 0
	}
	return int(b.Sub(a) / (24 * time.Hour))
}

// today is the last day of a course; nil if it has not begun.
func (c *course) today() *Day {
	if n := len(c.Days); n > 0 {
		return c.Days[n-1]
	}
	return nil
}

// done is the day on which a course came to its end; "" if it has not.
func (c *course) done() string {
	if d := c.today(); d != nil && d.Warm {
		return d.Date
	}
	return ""
}

// idle says whether there was mail, and none for so long that a course begins anew.
func (c *course) idle(today string) bool {
	for i := len(c.Days) - 1; i >= 0; i-- {
		if last := c.Days[i].Last; last != "" {
			return days(last, today) > idleDays
		}
	}
	return false
}

// Run writes, and looks at the day, until ctx ends.
func (w *Warmup) Run(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.book.Run(ctx)
	}()
	loop.Every(ctx, lookEvery, w.look)
	<-done
}

// look brings all courses up to date and writes what is to be written.
func (w *Warmup) look(now time.Time) {
	w.mu.Lock()
	if w.unread != nil {
		w.unread = w.load(now)
	}
	for _, c := range w.courses {
		if p, ok := w.plans[c.Address]; ok {
			w.turn(c, p, now)
		}
	}
	news := w.news
	w.news = nil
	w.mu.Unlock()
	for _, log := range news {
		log()
	}
	w.save(now, false)
}

// Close writes for the last time. Nothing is taken after it.
func (w *Warmup) Close(now time.Time) error {
	w.save(now, true)
	return cmp.Or(w.book.Close(now), w.Failed())
}

// Failed says why the files could not be read or written at the last try; nil if they could,
// or no address warms up.
func (w *Warmup) Failed() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.plans) == 0 {
		return nil
	}
	return cmp.Or(w.unread, w.failed, w.book.Failed())
}

// Lost says whether a file was found damaged today.
func (w *Warmup) Lost(now time.Time) bool { return w.lostOn() == w.date(now) }
