package web

import (
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// hostile is what a stranger might put into a name or a reply.
const hostile = "<script>alert(1)</script>\" onmouseover='alert(2)' \u202egnp.exe\r\n\x00 {{.}} joe.secret@victim.example javascript:alert(3) averylongwordxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

// fixed is a backend that always shows the same.
type fixed struct {
	snapshot Snapshot
	changes  map[string][]Change
	accounts Account // of each site, but for its changes
}

func (f *fixed) Snapshot() Snapshot {
	s := f.snapshot
	s.Time = time.Now()
	return s
}

func (f *fixed) Explain(site string) (Account, bool) {
	c, ok := f.changes[site]
	a := f.accounts
	a.Changes = c
	return a, ok
}

// changing is a backend that can be changed while it is looked at.
type changing struct {
	mu sync.Mutex
	*fixed
}

func (c *changing) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.fixed.Snapshot()
	s.Sites = slices.Clone(s.Sites)
	return s
}

func (c *changing) change(f func(*Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.snapshot)
}

// quiet is an agent that has just started.
func quiet() *fixed { return &fixed{snapshot: Snapshot{Hostname: "mail.example.com", Version: "1.0"}} }

// busy is an agent in the middle of a blast, with trouble of every kind.
func busy(now time.Time) *fixed {
	return &fixed{
		snapshot: Snapshot{
			Hostname: "mail.example.com", Version: "1.0",
			Waiting: 18_900, Deferred: 3120, Active: 64, Sessions: 61,
			Trouble: []string{"stream Spring sale <sale.example.com> is held; see to the cause, then millrace resume: gmail-authentication: 550-5.7.26 this mail is unauthenticated, see joe@example.com"},
			Sites: []Site{
				{Name: "google", Queue: "google", Waiting: 9100, Sessions: 24, Target: 25, Cause: "25 sessions: the configured limit"},
				{Name: "yahoo", Queue: "yahoo", Waiting: 5400, Held: Held{Reason: "suspended", How: "suspended", Until: now.Add(95 * time.Minute), Reply: "yahoo-tss04: 421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints"}},
				{Name: "outlook", Queue: "outlook", Waiting: 2300, Sessions: 4, Target: 4, Pace: 3.2, Held: Held{Reason: "slowed", How: "takes about 3.2 messages a second", Reply: "451 4.7.652 The mail server [192.0.2.1] has exceeded the maximum number of connections"}},
				{Name: "mx.dead.example", Queue: "general", Waiting: 380, Opening: 1, Target: 2, Cause: "start", Held: Held{Reason: "dead", How: "no answer", Next: now.Add(time.Minute), Reply: "connect to mx.dead.example[198.51.100.7]:25: connection timed out"}},
				{Name: "mx1.example.org, mx2.example.org", Queue: "general", Waiting: 0, Sessions: 2, Target: 2, Cause: "2 sessions: the start"},
				{Name: hostile, Queue: "general", Waiting: 1060, Sessions: 2, Target: 2, Held: Held{Reason: "slowed", How: "at most 2 sessions", Until: now.Add(time.Hour), Reply: hostile}},
			},
			Streams: []Stream{
				{Name: "Weekly <weekly.news.example.com>", Waiting: 12_000, Deferred: 2100, Active: 60},
				{Name: "Spring sale <sale.example.com>", Waiting: 5200, Deferred: 1000, Paused: "gmail-authentication: 550-5.7.26 this mail is unauthenticated"},
				{Name: hostile, Waiting: 1040, Deferred: 20, Active: 4, Paused: hostile},
			},
			Sources: []Source{
				{Address: "192.0.2.25", What: "of pool news, weight 3, greets as out1.example.com", Sessions: 40},
				{Address: "192.0.2.26", What: "of pool news, weight 1, greets as out2.example.com; blocked at yahoo", Trouble: true},
			},
			Warmups: []Warmup{
				{Address: "192.0.2.26", Queue: "google", What: "day 3 of 30: 300 of 960 recipients", Days: []WarmupDay{{"2026-11-27", 480, 478}, {"2026-11-28", 672, 672}, {"2026-11-29", 960, 300}}},
				{Address: "2001:db8:25::/64", Queue: "outlook", What: hostile, Trouble: true, Days: []WarmupDay{{"2026-11-29", 1, 1}}},
			},
			Limits:  []Limit{{"newsletters", "4321 of 5000/h; Mon-Fri 08:00-20:00 Europe/Berlin, open until Mon 20:00"}, {hostile, hostile}},
			Unknown: []UnknownReply{{17, "host mx.far.test[192.0.2.3] said: 550 ask joe@example.com (in reply to RCPT TO command)"}, {2, hostile}},
		},
		changes: map[string][]Change{
			"google": {
				{At: now.Add(-5 * time.Hour), From: 2, To: 4, Cause: "8 transactions in 61 ms each on 2 sessions: more may pay"},
				{At: now.Add(-5*time.Hour + time.Minute), From: 4, To: 8, Cause: "16 transactions in 63 ms each on 4 sessions: more may pay"},
				{At: now.Add(-3 * time.Hour), From: 8, To: 5, Cause: "421-4.7.0 Too many connections from your IP, try later, postmaster@google.test"},
				{At: now.Add(-2 * time.Hour), From: 5, To: 5, Pace: 12.5, Cause: "421-4.7.28 Our system has detected an unusual rate of unsolicited mail"},
				{At: now.Add(-1 * time.Hour), From: 5, To: 25, Cause: "a probe came up"},
			},
			hostile: {{At: now, From: 1, To: 2, Cause: hostile}},
		},
		accounts: Account{
			State: "bounded", Want: 25, Held: 24, MaxSessions: 30, Whose: "each address", Lag: 0.4,
			Addresses: []Address{
				{Address: "192.0.2.25:25", Held: 24, Accepted: 25, Limited: true, Reply: hostile},
				{Address: "[2001:db8::25]:25", Down: true, Pace: 2},
				{Address: "192.0.2.26:25", Opens: now.Add(time.Minute), Reply: "421 too many"},
			},
		},
	}
}

// past is six hours of a blast, the last failures of it hostile.
func past(now time.Time) *history.History {
	h := history.New(now.Add(-history.Span - history.Step))
	e := &spool.Envelope{Sender: "news@news.example.com", Stream: "Weekly <weekly.news.example.com>", QueueID: "4fKz1T0Qx9z",
		Recipients: []spool.Recipient{{Address: "alice@gmail.com"}}, Arrived: now.Add(-time.Hour)}
	bad := &spool.Envelope{Sender: hostile, Stream: hostile, QueueID: "4fKz1T0Qx9y", Recipients: []spool.Recipient{{Address: hostile}}}
	queues := []struct {
		name  string
		share float64
	}{{"google", 0.5}, {"yahoo", 0.2}, {"outlook", 0.2}, {"general", 0.1}}
	steps := int(history.Span / history.Step)
	for i := range steps {
		at := now.Add(-time.Duration(steps-1-i) * history.Step)
		x := float64(i) / float64(steps)
		load := max(0, math.Sin(x*7)+0.3*math.Sin(x*90)+0.5)
		s := history.Sample{Time: at, Deferred: int(3000 * x), Sessions: int(60 * load)}
		for j, q := range queues {
			for range int(20 * load * q.share) {
				h.Delivery(&event.Delivery{Time: at, Envelope: e, Site: q.name, Status: event.Sent, Transmit: time.Duration(60+30*j+int(20*math.Sin(x*40))) * time.Millisecond})
			}
			s.Sites = append(s.Sites, history.Site{Name: q.name, Queue: q.name, Waiting: int(12_000 * load * q.share), Sessions: int(60 * load * q.share)})
			s.Waiting += s.Sites[j].Waiting
		}
		if i%9 == 0 {
			h.Delivery(&event.Delivery{Time: at, Envelope: e, Site: "outlook", Relay: "mx.outlook.test[192.0.2.9]:25", Status: event.Deferred, Class: outcome.ClassRateLimited, Reason: "451 4.7.650 temporarily rate limited due to IP reputation", Due: at.Add(time.Hour)})
		}
		if i%20 == 0 {
			h.Delivery(&event.Delivery{Time: at, Envelope: e, Site: "google", Relay: "mx.google.test[192.0.2.8]:25", Status: event.Bounced, Class: outcome.ClassUserUnknown, Reason: "550 5.1.1 <alice@gmail.com> no such user"})
		}
		h.Sample(s)
	}
	h.Delivery(&event.Delivery{Time: now, Envelope: bad, Peer: netip.AddrPort{}, Relay: hostile, Status: event.Bounced, Class: outcome.ClassContent, Reason: hostile})
	return h
}

// serve runs a handler as the agent does, for readers that may be slow.
func serve(t *testing.T, b Backend, h *history.History) (*httptest.Server, *Handler) {
	t.Helper()
	return serveWithin(t, b, h, 2*time.Minute)
}

// serveWithin also says how long a request and its answer may take.
func serveWithin(t *testing.T, b Backend, h *history.History, deadline time.Duration) (*httptest.Server, *Handler) {
	t.Helper()
	web := New(Options{
		Backend: b, History: h, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Hostnames: func() []string { return []string{"mail.example.com"} },
	})
	s := httptest.NewUnstartedServer(web)
	s.Config.ReadTimeout, s.Config.WriteTimeout = deadline, deadline
	s.Start()
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	return s, web
}

// testWriter fails the test for whatever is logged.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Errorf("logged: %s", p)
	return len(p), nil
}

// ask makes one request to a handler.
func ask(h http.Handler, target string, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "127.0.0.1:8891"
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// enter follows a link and returns the cookie it gives.
func enter(t *testing.T, h *Handler) *http.Cookie {
	t.Helper()
	w := ask(h, h.Link(), nil)
	if w.Code != http.StatusSeeOther || len(w.Result().Cookies()) != 1 {
		t.Fatalf("a link answers %d: %s", w.Code, w.Body)
	}
	return w.Result().Cookies()[0]
}

func inOrder(s string, parts ...string) bool {
	for _, p := range parts {
		_, after, ok := strings.Cut(s, p)
		if !ok {
			return false
		}
		s = after
	}
	return true
}
