// Package outcomes keeps what became of mail: every attempt for some days, and counts
// without addresses for months, in SQLite databases that sqlite3(1) can read while the
// agent runs. For reading only: nothing that decides about mail is kept only here.
//
// An Outcomes is an event.Listener. Delivery puts an event into the log of package
// eventlog, which costs a copy in memory and never waits. Run reads that log, once a
// second, from a cursor on, and writes what it reads in batches:
//
//	state_directory/events/                       the log, the last two days or 256 MiB
//	state_directory/outcomes/outcomes-DAY.db      attempts of a day (UTC): Policy.Keep
//	state_directory/outcomes/totals.db            counts: Policy.KeepTotals
//	state_directory/outcomes/key                  of the hashes of recipients
//
// History (lookup.go) answers questions, Forget (forget.go) erases an address. Use changes
// the policy, at first and after a reload. millrace-events(5) has the tables for admins.
//
// # Each event is counted once
//
// A database has the rows and the cursor of the events that it has them of, and both are
// changed in one transaction. An event is of the day of its time, and a batch ends where
// the day changes, forwards or, by a clock that is set back, backwards. So all events up
// to the greatest cursor of any day are in the file of their day, and those after it are in
// none: that is where Run goes on. totals.db has a cursor of its own. kill -9 leaves the last
// transaction out or in; power loss may take the last ones back, as they are synced by
// checkpoints only, and they are made anew from the log.
//
// # What goes wrong
//
// Delivery of mail goes on whatever happens here; Trouble tells it. On a full disk, and while another
// program reads a file so long that its WAL grows past maxWAL, Run waits, and events wait
// in the log. A file that is damaged is renamed and begun anew, from the log as far as that
// reaches back, and so is one that somebody removes while it is in use. What the log has lost meanwhile is a row with the event "gap", and counted
// by Stats.
//
// # Room
//
// Files of days that are older than Keep are removed, one an hour, so that a clock that is
// wrong for some minutes does not remove them all; those that such a clock has made, as far
// ahead, go likewise. Counts older than KeepTotals go a day an hour. When all files take more than MaxSize, or the
// file system has less than MinFree, the oldest day goes at once, then the log shrinks; the
// day under way stays, but nothing is added to it.
//
// # Why it is as it is
//
// A million rows a day must not cost the drain more than some microseconds each. A row
// has numbers and what is of one attempt only: what it shares with others (stream, site,
// host, reply but for its queue id) is a row of the table kinds. There is no index: the keys of a
// quarter of a million rows at a time are sorted and added to the end of the table keys. Look-ups
// search each such run, and read the newest rows, which have no keys yet, one by one.
package outcomes

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/loop"
)

const (
	// batchRows is the most of one transaction.
	batchRows = 5000
	// fillEvery is the time between two looks at the log.
	fillEvery = time.Second
	// lookEvery is the time between two looks at sizes and room.
	lookEvery = 10 * time.Second
	// retryEvery is the time after which what failed is tried again.
	retryEvery = 10 * time.Second
	// agedEvery is the time between two files that are removed for their age.
	agedEvery = time.Hour
	// toldFor is how long Trouble tells of what is over: events that are lost, a file that
	// was begun anew.
	toldFor = time.Hour

	// A WAL of this many octets is told of; beyond maxWAL nothing is added.
	largeWAL = 64 << 20
	maxWAL   = 256 << 20
)

// Mode says how recipients are kept.
type Mode uint8

// The modes.
const (
	Plain  Mode = iota // as they are
	Hashed             // by a keyed hash: who knows the address finds its rows
	None               // not at all
)

// Policy says what is kept.
type Policy struct {
	Keep       time.Duration // of attempts; 0: none are
	KeepTotals time.Duration // of counts; 0: none are
	MaxSize    int64         // octets of all files; 0: no limit
	MinFree    int64         // octets left free on the file system
	Recipients Mode
}

func (p *Policy) on() bool { return p.Keep > 0 || p.KeepTotals > 0 }

// Options are what an Outcomes works with.
type Options struct {
	StateDirectory string // "": nothing is kept
	Log            *slog.Logger
	Now            func() time.Time
	// Free tells the octets that a file system has left for us.
	Free func(dir string) (int64, error)
}

// Outcomes keeps what became of mail. Its methods may be called by many goroutines.
type Outcomes struct {
	o      Options
	policy atomic.Pointer[Policy]
	events atomic.Pointer[eventlog.Log] // nil: nothing is kept

	large, most int64 // octets of a WAL: largeWAL, maxWAL
	found       int   // maxFound

	useMu sync.Mutex

	mu     sync.Mutex // of what follows: one fills, forgets, or sets aside at a time
	day    *day       // the one written to; nil: none is open
	totals *totals
	rows   eventlog.Cursor // of the rows: the greatest of all days
	known  bool            // rows was read
	bared  bool            // the log has no address, as no rows are kept
	looked time.Time
	aged   time.Time
	folded time.Time
	hasty  time.Time // no try before
	batch  eventlog.Batch
	full   string // why nothing is added for want of room
	wal    string // which WAL is large, though it may grow further; "" if none is

	took took

	broken  chan fileError // files that a look-up found damaged
	stats   atomic.Pointer[Stats]
	trouble atomic.Pointer[string]
	keyless atomic.Pointer[string]  // why recipients are not kept though they should be; "" if they are
	gapped  atomic.Pointer[gapSeen] // the last gap; nil: none
	renewed atomic.Pointer[renewal] // the last file that was begun anew; nil: none
	rowsN   atomic.Uint64
	lostN   atomic.Uint64
}

// Stats is what is kept.
type Stats struct {
	On               bool
	Rows, Lost       uint64 // since the start: written; in no file
	Octets, Log, WAL int64  // of the databases; of the log of events; of the WAL of the day under way
	Days             int    // files
}

// New returns an Outcomes that keeps nothing until Use.
func New(o Options) *Outcomes {
	x := &Outcomes{o: o, large: largeWAL, most: maxWAL, found: maxFound, took: took{plain: maphash.MakeSeed()}, broken: make(chan fileError, 8)}
	x.policy.Store(&Policy{})
	x.stats.Store(&Stats{})
	x.trouble.Store(new(string))
	x.keyless.Store(new(string))
	return x
}

func (o *Outcomes) eventsDir() string { return filepath.Join(o.o.StateDirectory, "events") }

func (o *Outcomes) removeEvents() error {
	if o.o.StateDirectory == "" {
		return nil
	}
	return os.RemoveAll(o.eventsDir())
}

func (o *Outcomes) dir() string { return filepath.Join(o.o.StateDirectory, "outcomes") }

// Use puts a policy into force.
func (o *Outcomes) Use(p Policy) {
	o.useMu.Lock()
	defer o.useMu.Unlock()
	if o.o.StateDirectory == "" {
		p = Policy{}
	}
	to := eventlog.Recipients{None: p.Recipients == None || p.Keep == 0}
	keyless := ""
	if p.Keep > 0 && p.Recipients == Hashed {
		keyed, err := o.hash(true)
		if err != nil {
			keyless = fmt.Sprintf("outcomes are kept without recipients until a reload: the key of their hashes cannot be read: %v", err)
			o.o.Log.Error(keyless)
			to.None = true
		}
		to.Hash = keyed
	}
	o.took.use(to.Hash)
	o.keyless.Store(&keyless)
	if l := o.events.Load(); l != nil {
		l.Use(to) // before the policy: bare erases what came with addresses until then
	}
	o.policy.Store(&p)
	switch l := o.events.Load(); {
	case l == nil && p.on():
		o.events.Store(eventlog.Open(eventlog.Options{
			Dir: o.eventsDir(), Log: o.o.Log, After: o.remembered(), Recipients: to, Room: o.room,
		}))
	case !p.on():
		if l != nil {
			o.events.Store(nil)
			o.closeLog(l)
		}
		// Nobody reads the events any more, nobody would age them, and they have addresses.
		if err := o.removeEvents(); err != nil {
			o.o.Log.Error("events of outcomes that are not kept any more cannot be removed", "err", err, "remedy", "rm -r "+o.eventsDir())
		}
	}
}

// keyFile has the key of the hashes of recipients, in the directory of the databases.
const keyFile = "key"

// hash returns the hash of recipients: the first 64 bits of HMAC-SHA256 over the address
// in lower case. The key is made at first use; where there is none and create is false, it is nil.
func (o *Outcomes) hash(create bool) (func(string) int64, error) {
	path := filepath.Join(o.dir(), keyFile)
	secret, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return nil, nil
		}
		secret = make([]byte, sha256.Size)
		rand.Read(secret)
		err = durable.Replace(path, secret)
	}
	if err == nil && len(secret) != sha256.Size {
		err = fmt.Errorf("%s has %d octets, not %d; remedy: remove it, older hashes are of no use then", path, len(secret), sha256.Size)
	}
	if err != nil {
		return nil, err
	}
	pool := sync.Pool{New: func() any { return hmac.New(sha256.New, secret) }}
	return func(address string) int64 {
		h := pool.Get().(hash.Hash)
		defer pool.Put(h)
		h.Reset()
		h.Write([]byte(strings.ToLower(address)))
		var sum [sha256.Size]byte
		return int64(binary.BigEndian.Uint64(h.Sum(sum[:0])) | 1) // 0 is none
	}, nil
}

// remembered is the highest number of a segment that a database knows.
func (o *Outcomes) remembered() (highest uint64) {
	for _, path := range append(o.files(), o.totalsPath()) {
		if c, err := cursorOf(path); err == nil {
			highest = max(highest, c.Segment)
		}
	}
	return highest
}

// Delivery implements event.Listener. It never waits.
func (o *Outcomes) Delivery(d *event.Delivery) {
	o.noteTook(d)
	if l := o.events.Load(); l != nil {
		l.Delivery(d)
	}
}

// Add keeps an event that is no delivery, with the plain address of its recipient.
func (o *Outcomes) Add(r eventlog.Record) {
	if l := o.events.Load(); l != nil {
		l.Add(&r)
	}
}

// Run fills the databases until ctx ends. Close comes after the last Delivery.
func (o *Outcomes) Run(ctx context.Context) {
	o.fill(ctx, false)
	var reading sync.WaitGroup
	defer reading.Wait()
	loop.Every(ctx, fillEvery, func(time.Time) {
		if o.took.asked.Load() && !o.took.read {
			o.took.read = true
			reading.Go(func() { o.readTook(ctx) })
		}
		o.fill(ctx, false)
	})
}

func (o *Outcomes) closeLog(l *eventlog.Log) {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := l.Close(ctx); err != nil {
		o.o.Log.Error("events of outcomes are lost", "err", err)
	}
}

// Close writes the last events to the log, takes them into the databases, and closes both.
// It gives up after some seconds; what is not taken in then is at the next start.
func (o *Outcomes) Close() {
	o.useMu.Lock()
	defer o.useMu.Unlock()
	if l := o.events.Load(); l != nil {
		ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		o.fill(ctx, true)
		o.closeLog(l)
		o.events.Store(nil)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeFiles()
}

func (o *Outcomes) closeFiles() {
	if o.day != nil {
		o.told(o.day.close())
		o.day = nil
	}
	if o.totals != nil {
		o.told(o.totals.close())
		o.totals = nil
	}
	o.known = false
}

func (o *Outcomes) told(err error) {
	if err != nil {
		o.o.Log.Warn("outcomes", "err", err)
	}
}

// Stats tells what is kept.
func (o *Outcomes) Stats() Stats {
	st := *o.stats.Load()
	st.Rows, st.Lost = o.rowsN.Load(), o.lostN.Load()
	if l := o.events.Load(); l != nil {
		st.On, st.Log = true, l.Size()
		st.Lost += l.Lost()
	}
	return st
}

// gapSeen is what is known of events that are lost.
type gapSeen struct {
	at   time.Time // when that was found
	lost uint64    // in all, since the start
}

// renewal is what is known of a file that was begun anew.
type renewal struct {
	at   time.Time
	path string
	why  string
}

// Trouble says why outcomes are not kept as they should be, "" if they are. Of events that
// were lost, and of files that were begun anew, it tells for an hour.
func (o *Outcomes) Trouble() string {
	if l := o.events.Load(); l != nil {
		if why := l.Trouble(); why != "" {
			return "the log of events of outcomes cannot be written: " + why
		}
	}
	for _, why := range []string{*o.trouble.Load(), *o.keyless.Load()} {
		if why != "" {
			return why
		}
	}
	if g := o.gapped.Load(); g != nil && o.o.Now().Sub(g.at) < toldFor {
		return fmt.Sprintf("%d events are missing among the outcomes, the last found at %s; millrace history has an event \"gap\" there", g.lost, g.at.Format(time.RFC3339))
	}
	if r := o.renewed.Load(); r != nil && o.o.Now().Sub(r.at) < toldFor {
		return fmt.Sprintf("%s was %s at %s, and begun anew; it may lack what the log of events did not have any more", r.path, r.why, r.at.Format(time.RFC3339))
	}
	return ""
}

// missed notes events that are lost.
func (o *Outcomes) missed(n uint64, now time.Time) {
	lost := n
	if g := o.gapped.Load(); g != nil {
		lost += g.lost
	}
	o.gapped.Store(&gapSeen{now, lost})
}

// setTrouble tells what is wrong, and logs it once.
func (o *Outcomes) setTrouble(why string) {
	switch before := *o.trouble.Swap(&why); {
	case why != "" && before == "":
		o.o.Log.Error("outcomes are not kept as they should be; mail goes on", "reason", why)
	case why == "" && before != "":
		o.o.Log.Info("outcomes are kept again")
	}
}
