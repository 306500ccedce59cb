package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/sites"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/warmup"
)

// season is a queue with the settings of a configuration, courses of warm-up and receivers, in
// virtual time. What a session does is what deliver does, without a connection.
type season struct {
	t   *testing.T
	set *settings.Settings
	dir string

	*queue.Queue
	warm *warmup.Warmup
	stop func()

	mu        sync.Mutex
	receivers map[string]*receiver // by domain
	envelopes map[spool.ID]*spool.Envelope
	states    map[spool.ID]spool.State
	waits     map[spool.ID]time.Duration
	sources   map[spool.ID][]netip.Addr // of the tries that reached the receiver
	first     map[string]map[string]int // recipients first tried from the cold address, by queue and date
	hourly    map[string]int            // by queue and hour
	handed    int
	next      spool.ID
}

// receiver answers to volume and reputation as receivers say that they do. An address that it
// does not know may send allowance recipients on its first day, and on each further day
// twice of what it took on the best day before; what is more is deferred in the words of Google
// (421 4.7.28, "unusual rate of unsolicited mail originating from your IP address",
// https://smtp.codes/google), Yahoo ([TSS04], "unexpected volume or user complaints") or
// Microsoft (451 4.7.650, "temporarily rate limited due to IP reputation",
// https://forum.directadmin.com/threads/82240). SparkPost has told such limits for new addresses: 5,000 a
// day at AOL, 20,000 at Outlook (its "IP Warm-up Overview", 28 April 2017).
type receiver struct {
	allowance int
	code      int
	enhanced  string
	text      string
	greylists bool           // an address and recipient that it does not know is deferred, once
	distrusts map[string]int // by date: each recipient of so many is deferred all the same
	unknown   map[string]int // by date: each address of so many does not exist

	n      int                           // recipients, on those days
	took   map[netip.Addr]map[string]int // by date
	met    map[string]bool
	excess int // recipients that were too many
}

// answer is what a receiver says to a recipient.
func (r *receiver) answer(source netip.Addr, to string, warm bool) (at outcome.Attempt, ok bool) {
	today := time.Now().UTC().Format(time.DateOnly)
	if r.took[source] == nil {
		r.took[source] = make(map[string]int)
	}
	days := r.took[source]
	most := r.allowance
	for day, n := range days {
		if day < today {
			most = max(most, 2*n)
		}
	}
	every := func(n int) bool {
		if warm || n == 0 {
			return false
		}
		r.n++
		return r.n%n == 0
	}
	limited := outcome.Attempt{Stage: outcome.Mail, Code: r.code, Enhanced: r.enhanced, Text: r.text}
	switch {
	case r.greylists && !r.met[source.String()+to]:
		r.met[source.String()+to] = true
		return outcome.Attempt{Stage: outcome.Rcpt, Code: 450, Enhanced: "4.2.0", Text: "Greylisted, see http://postgrey.schweikert.ch/help/example.html"}, false
	case !warm && days[today] >= most:
		r.excess++
		return limited, false
	case every(r.distrusts[today]):
		return limited, false
	case every(r.unknown[today]):
		return outcome.Attempt{Stage: outcome.Rcpt, Code: 550, Enhanced: "5.1.1", Text: "The email account that you tried to reach does not exist."}, false
	}
	days[today]++
	return at, true
}

var (
	warmAddress = netip.MustParseAddr("192.0.2.1")
	coldAddress = netip.MustParseAddr("192.0.2.2")
)

// hosts are the addresses of the receivers.
var hosts = map[string]string{"gmail.example": "198.51.100.1", "yahoo.example": "198.51.100.2", "outlook.example": "198.51.100.3"}

// quickDir is a directory of a file system in memory, where there is one: thirty days have
// thousands of syncs.
func quickDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "millrace-warmup-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// google is a receiver in Google's words.
func google(allowance int) *receiver {
	return &receiver{allowance: allowance, code: 421, enhanced: "4.7.28",
		text: "Our system has detected an unusual rate of unsolicited mail originating from your IP address. To protect our users from spam, mail sent from your IP address has been temporarily rate limited."}
}

func yahoo(allowance int) *receiver {
	return &receiver{allowance: allowance, code: 421, enhanced: "4.7.0",
		text: "[TSS04] Messages from 192.0.2.2 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes"}
}

func microsoft(allowance int) *receiver {
	return &receiver{allowance: allowance, code: 451, enhanced: "4.7.650",
		text: "The mail server [192.0.2.2] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://aka.ms/postmaster (S775)"}
}

// newSeason begins one. It must be called in a bubble of synctest.
func newSeason(t *testing.T, text, dir string, receivers map[string]*receiver) *season {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte("hostname = \"mail.example.com\"\n"+text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := settings.ReplyRules(c.Replies)
	if err != nil {
		t.Fatal(err)
	}
	s := &season{t: t, dir: dir, receivers: receivers, set: &settings.Settings{Config: c, Sites: sites.New(), Rules: rules},
		envelopes: make(map[spool.ID]*spool.Envelope), states: make(map[spool.ID]spool.State),
		first: make(map[string]map[string]int), hourly: make(map[string]int), waits: make(map[spool.ID]time.Duration), sources: make(map[spool.ID][]netip.Addr)}
	for _, r := range receivers {
		r.took, r.met = make(map[netip.Addr]map[string]int), make(map[string]bool)
	}
	s.start()
	return s
}

// start starts a queue with what the journal has.
func (s *season) start() {
	log := slog.New(slog.DiscardHandler)
	var lookups sync.WaitGroup
	o := queue.Options{Relay: queue.RelayDomain("127.0.0.1:10626"), MaxSessions: 200, From: s.set.FromOf}
	o.Resolve = func(name string) { lookups.Go(func() { s.resolve(name) }) }
	o.Launch = func(x *queue.Session) { go s.session(x) }
	s.Queue = queue.New(o)
	s.warm = warmup.New(warmup.Options{Log: log, Directory: s.dir, Zone: time.UTC, Granted: s.Queue.QuotasGranted}, time.Now())
	s.warm.Use(settings.WarmupPlans(s.set.Config))
	s.set.Warmup = s.warm
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { s.Run(ctx) })
	all.Go(func() { s.warm.Run(ctx) })
	if s.set.Config.Pools[0].Overflow == config.OverflowHandback {
		all.Go(func() { loop.Every(ctx, time.Second, func(time.Time) { s.handBack() }) })
	}
	s.stop = func() {
		if err := s.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
		lookups.Wait()
		cancel()
		all.Wait()
	}
	s.mu.Lock()
	left := make(map[spool.ID]spool.State)
	for id, st := range s.states {
		if !st.Status.Final() && !st.Handback {
			left[id] = st
		}
	}
	s.mu.Unlock()
	for id, st := range left {
		e := s.envelopes[id]
		s.Add(id, e, []string{domainOf(e)}, []spool.State{st}, false)
	}
}

func domainOf(e *spool.Envelope) string {
	_, domain, _ := strings.Cut(e.Recipients[0].Address, "@")
	return domain
}

func (s *season) resolve(name string) {
	domain, _ := queue.SplitRouteName(name)
	if name == queue.RelayDomain("127.0.0.1:10626") {
		q := s.set.Config.General
		q.Name = "handback"
		s.Routed(name, queue.Route{Queue: &q, Relay: "127.0.0.1:10626", Site: name, Key: name, Handback: true})
		return
	}
	plan := &route.Plan{Domain: domain, Hosts: []route.Host{{Name: "mx." + domain, Addrs: []netip.Addr{netip.MustParseAddr(hosts[domain])}}}}
	rt := s.set.MXRoute(name, s.set.QueueOf(domain), plan)
	rt.Expires = time.Now().Add(time.Hour)
	s.Routed(name, rt)
}

func (s *season) handBack() {
	for _, job := range s.Overflowed() {
		var done []queue.Settled
		for _, item := range job.Items {
			st := spool.State{Handback: true}
			s.set1(job.ID, st)
			done = append(done, queue.Settled{Handle: item.Handle, How: queue.ToHost, State: st})
		}
		s.Settle(done)
	}
}

func (s *season) set1(id spool.ID, st spool.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[id] = st
}

const serviceTime = 200 * time.Millisecond

// session is the life of one connection.
func (s *season) session(x *queue.Session) {
	began := time.Now()
	time.Sleep(serviceTime)
	s.Opened(x, []elastic.Signal{{Kind: elastic.Up, Began: began}})
	var done []queue.Settled
	var sig []elastic.Signal
	for {
		job, err := s.Step(context.Background(), x, done, sig)
		if err != nil {
			s.Leave(x, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			return
		}
		began = time.Now()
		done, sig = done[:0], sig[:0]
		rt := x.Route()
		s.mu.Lock()
		e := s.envelopes[job.ID]
		s.mu.Unlock()
		var items []queue.Item
		for _, item := range job.Items { // as deliver.skipMisplaced
			if from := s.set.FromOf(e, int(item.Ordinal), job.Domain); !rt.Handback && item.Tries == 0 && from != job.From && !s.set.Overflowed(from, job.From, job.Domain, rt.Queue) {
				done = append(done, queue.Settled{Handle: item.Handle, How: queue.FromElsewhere, State: spool.State{From: from}})
				continue
			}
			items = append(items, item)
		}
		if len(items) == 0 {
			continue
		}
		time.Sleep(serviceTime)
		kind := elastic.Accepted
		for _, item := range items {
			st, k := s.try(e, job, item, rt, x.Place().Source)
			if k != elastic.Accepted {
				kind = k
			}
			done = append(done, queue.Settled{Handle: item.Handle, State: st})
		}
		sig = append(sig, elastic.Signal{Kind: kind, Began: began})
	}
}

// try is one recipient's transaction.
func (s *season) try(e *spool.Envelope, job queue.Job, item queue.Item, rt queue.Route, source netip.Addr) (spool.State, elastic.Kind) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if rt.Handback {
		s.handed++
		st := spool.State{Status: spool.HandedBack}
		s.states[job.ID] = st
		return st, elastic.Accepted
	}
	d := event.Delivery{Time: now, ID: job.ID, Envelope: e, Queue: rt.Queue.Name, Domain: job.Domain, Source: source, Tries: item.Tries + 1, Status: event.Sent}
	st := spool.State{Status: spool.Delivered, Tries: uint16(item.Tries + 1)}
	kind := elastic.Accepted
	s.sources[job.ID] = append(s.sources[job.ID], source)
	if item.Tries == 0 && source == coldAddress {
		q := rt.Queue.Name
		if s.first[q] == nil {
			s.first[q] = make(map[string]int)
		}
		s.first[q][now.UTC().Format(time.DateOnly)]++
		s.hourly[q+now.UTC().Format(" 2006-01-02 15")]++
	}
	at, ok := s.receivers[job.Domain].answer(source, e.Recipients[0].Address, source == warmAddress)
	if ok {
		s.waits[job.ID] = now.Sub(e.Arrived)
	} else {
		at.Tries, at.Born, at.Peer = item.Tries, e.Arrived, "mx."+job.Domain+"["+hosts[job.Domain]+"]"
		v := s.set.RetryPolicy(rt.Queue).Decide(now, at)
		d.Class, d.Hard = v.Class, v.Hard
		switch v.Action {
		case outcome.Bounce:
			st.Status, d.Status = spool.Bounced, event.Bounced
		default:
			st.Status, st.Due, st.From, d.Status = 0, v.Due, rt.From, event.Deferred
			kind = v.Signal
		}
	}
	s.states[job.ID] = st
	s.warm.Delivery(&d)
	return st, kind
}

// send brings n messages for a domain.
func (s *season) send(domain string, n int) {
	for range n {
		s.mu.Lock()
		s.next++
		id := s.next
		e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: []spool.Recipient{{Address: fmt.Sprintf("u%d@%s", id, domain)}}}
		s.envelopes[id] = e
		s.states[id] = spool.State{}
		s.mu.Unlock()
		s.Add(id, e, []string{domain}, nil, false)
	}
}

// course is the one of the cold address at a queue.
func (s *season) course(provider string) warmup.Course {
	for _, c := range s.warm.List(time.Now()) {
		if c.Provider == provider && c.Address == coldAddress.String() {
			return c
		}
	}
	return warmup.Course{}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// seasonDays is a plan of 30 days.
var seasonDays = func() (days []int) {
	for x := 12.0; len(days) < 30; x *= 1.06 {
		days = append(days, int(x))
	}
	return days
}()

// seasonConfig has a pool with a warm address and a cold one.
func seasonConfig(overflow string) string {
	days := strings.Trim(strings.ReplaceAll(fmt.Sprint(seasonDays), " ", ", "), "[]")
	return `
[[pool]]
name = "news"
addresses = ["192.0.2.1", "192.0.2.2"]
warmup = ["", "month"]
overflow = "` + overflow + `"
[[warmup]]
name = "month"
days = [` + days + `]
[[queue]]
name = "google"
domains = ["gmail.example"]
pool = "news"
spread = "recipient"
[[queue]]
name = "yahoo"
domains = ["yahoo.example"]
pool = "news"
spread = "recipient"
[[queue]]
name = "microsoft"
domains = ["outlook.example"]
pool = "news"
spread = "recipient"
`
}

// day is the date of a day of the season, from 0. The bubble's clock begins at midnight UTC.
func day(n int) string { return time.Date(2000, 1, 1+n, 12, 0, 0, 0, time.UTC).Format(time.DateOnly) }

// settledSeason checks that all mail was tried to its end and each from one address.
func (s *season) settledSeason() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	open, moved := 0, 0
	for id, st := range s.states {
		if !st.Status.Final() {
			open++
		}
		for _, a := range s.sources[id] {
			if a != s.sources[id][0] {
				moved++
				break
			}
		}
	}
	if open > 0 || moved > 0 {
		s.t.Errorf("%d of %d messages are open, %d were tried from two addresses", open, len(s.states), moved)
	}
}

// Thirty days of hourly mail to two receivers, one of which greylists. The plan is kept, but for a day on which a receiver defers too much, which is repeated, and one far
// above the bar, after which the course goes a day back. No receiver ever sees more than it
// takes from an address of that past. Agent and outcomes database break on the way.
func TestThirtyDaysOfWarmup(t *testing.T) {
	t.Parallel()
	dir := quickDir(t)
	synctest.Test(t, func(t *testing.T) {
		r := map[string]*receiver{"gmail.example": google(15), "outlook.example": microsoft(15)}
		r["outlook.example"].greylists = true
		r["gmail.example"].distrusts = map[string]int{day(9): 10, day(19): 2}
		r["outlook.example"].unknown = map[string]int{day(14): 12}
		s := newSeason(t, seasonConfig("warm"), dir, r)
		for hour := range 30 * 24 {
			for domain := range r {
				s.send(domain, 10)
			}
			if hour == 15*24+12 {
				pass(20 * time.Minute)
				s.stop()
				if err := os.WriteFile(filepath.Join(dir, "outcomes-2000-01-16.db"), []byte("damaged"), 0o600); err != nil {
					t.Fatal(err)
				}
				s.start()
				pass(40 * time.Minute)
				continue
			}
			pass(time.Hour)
		}
		pass(time.Hour)
		s.stop()
		s.settledSeason()
		for _, x := range []struct {
			provider string
			bad      map[int]int // day -> what it does to the step
		}{{"google", map[int]int{9: 0, 19: -1}}, {"microsoft", map[int]int{14: 0}}} {
			step, c := 0, s.course(x.provider)
			back := -9 // the last day that took it a day back: the limits to which it taught us hold for some more
			for n := range 30 {
				d := c.Days[n]
				if d.Date != day(n) || d.Step != step || d.Share != seasonDays[step] {
					t.Fatalf("%s: day %d is %+v, want step %d", x.provider, n, d, step)
				}
				by, bad := x.bad[n]
				if by < 0 {
					back = n
				}
				slow := n-back < 5
				if sent := s.first[x.provider][d.Date]; sent > d.Share || sent < d.Share-3 && !slow {
					t.Errorf("%s: %d were first tried on %s, the share is %d", x.provider, sent, d.Date, d.Share)
				}
				if bad != d.Bad || d.Verdict != "" && !bad && !slow {
					t.Errorf("%s: %s was found %q (%+v)", x.provider, d.Date, d.Verdict, d)
				}
				if !bad && d.Verdict == "" {
					by = 1
				}
				step += by
			}
			if step < 22 {
				t.Errorf("%s: step %d after thirty days", x.provider, step)
			}
		}
		for domain, x := range r {
			if x.excess > 0 {
				t.Errorf("%s saw %d recipients too many", domain, x.excess)
			}
		}
		if s.handed > 0 {
			t.Errorf("%d were handed back", s.handed)
		}
	})
}

// Where warm addresses take what has no room, nothing waits longer than the same mail does
// without warm-up: message by message where they come one by one. A burst goes by fewer addresses
// then, and waits no longer than it would without the cold one, give or take a transaction.
func TestOverflowToWarmAddressesWaitsForNothing(t *testing.T) {
	t.Parallel()
	with := seasonConfig("warm")
	without := strings.ReplaceAll(strings.ReplaceAll(with, `warmup = ["", "month"]`, ""), `overflow = "warm"`, "")
	alone := strings.ReplaceAll(without, `, "192.0.2.2"]`, "]")
	run := func(text string, days, every time.Duration, n int) (s *season) {
		synctest.Test(t, func(t *testing.T) {
			s = newSeason(t, text, "", map[string]*receiver{"gmail.example": google(1 << 30), "yahoo.example": yahoo(1 << 30)})
			for range days / every {
				s.send("gmail.example", n)
				pass(every / 2)
				s.send("yahoo.example", n)
				pass(every / 2)
			}
			s.stop()
			s.settledSeason()
		})
		return s
	}
	for _, x := range []struct {
		name     string
		than     string
		every    time.Duration
		n        int
		eachlike bool
		slack    time.Duration
	}{{"one by one", without, 2 * time.Minute, 1, true, 0}, {"bursts", alone, time.Hour, 60, false, serviceTime}} {
		a, b := run(with, 24*time.Hour, x.every, x.n), run(x.than, 24*time.Hour, x.every, x.n)
		overflowed, longer := 0, 0
		var most, sum [2]time.Duration
		for id, w := range a.waits {
			v := b.waits[id]
			most[0], most[1], sum[0], sum[1] = max(most[0], w), max(most[1], v), sum[0]+w, sum[1]+v
			if w > v {
				longer++
			}
			if a.sources[id][0] == warmAddress && strings.Contains(a.set.FromOf(a.envelopes[id], 0, domainOf(a.envelopes[id])), coldAddress.String()) {
				overflowed++
			}
		}
		t.Logf("%s: %d of %d overflowed; longest wait %v and %v, all together %v and %v, %d longer", x.name, overflowed, len(a.waits), most[0], most[1], sum[0], sum[1], longer)
		if len(a.waits) != len(b.waits) || overflowed < len(a.waits)/3 || most[0] > most[1]+x.slack || sum[0] > sum[1] || x.eachlike && longer > 0 {
			t.Errorf("%s: mail waits longer", x.name)
		}
	}
}

// Where mail is to wait, the share is spread over the day, and nothing that belongs to the cold
// address leaves from another.
func TestOverflowWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeason(t, seasonConfig("wait"), "", map[string]*receiver{"gmail.example": google(15)})
		home := make(map[spool.ID]bool) // of the cold address
		for range 24 {
			s.send("gmail.example", 8)
			pass(time.Hour)
		}
		for id, e := range s.envelopes {
			home[id] = strings.Contains(s.set.FromOf(e, 0, "gmail.example"), coldAddress.String())
		}
		for range 7 * 24 {
			pass(time.Hour)
		}
		s.stop()
		s.settledSeason()
		for n, share := range seasonDays[:2] {
			if sent := s.first["google"][day(n)]; sent > share || sent < share*9/10 {
				t.Errorf("%d were sent on day %d, the share is %d", sent, n, share)
			}
		}
		for hour, n := range s.hourly {
			if n > 2 {
				t.Errorf("%d were sent in %s", n, hour)
			}
		}
		for id, list := range s.sources {
			if (list[0] == coldAddress) != home[id] {
				t.Errorf("message %d left from %v", id, list)
			}
		}
	})
}

// Where the host is to have what has no room, it gets that at once, and no more.
func TestOverflowGoesBackToTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeason(t, seasonConfig("handback"), "", map[string]*receiver{"gmail.example": google(15)})
		for range 2 * 24 {
			s.send("gmail.example", 12)
			pass(time.Hour)
			if n := s.Queued(); n > 0 {
				t.Fatalf("%d wait", n)
			}
		}
		s.stop()
		s.settledSeason()
		cold := 0
		for n, share := range seasonDays[:2] {
			sent := s.first["google"][day(n)]
			if sent > share || sent < share*9/10 {
				t.Errorf("%d were sent on day %d, the share is %d", sent, n, share)
			}
			cold += sent
		}
		if len(s.waits)+s.handed != 2*24*12 || s.handed < 100 || cold == 0 {
			t.Errorf("%d were delivered and %d handed back", len(s.waits), s.handed)
		}
	})
}
