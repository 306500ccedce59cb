package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/cmd/internal/program"
)

// backend is an agent with a fixed queue.
type backend []control.Message

func (b backend) Status() control.Status {
	return control.Status{Version: "1.2", Waiting: 1200, Deferred: 30, Active: 20, Sessions: 8, Sites: []control.Site{
		{Name: "google", Queue: "general", Waiting: 1100, Sessions: 7, Target: 8, Pace: 50, Rate: 45.25, Latency: 0.123, Refused: 3, Cause: "refused with 11 up: 421 too many",
			State: "bounded", Want: 8, Held: 8, HeldBack: &control.HeldBack{Reason: "refused", How: "takes 8 sessions, 20 are allowed", Reply: "421 too many"}},
		{Name: "mx.far.example", Queue: "general", Waiting: 100, Sessions: 1, Opening: 1, Target: 2, Cause: "start"},
	}}
}

func (b backend) Totals() control.Totals {
	return control.Totals{
		Since:   time.Unix(1_700_000_000, 0),
		Queues:  []control.QueueTotals{{Name: "general", Sent: 123_456, Deferred: 30, Bounced: 5}, {Name: "handback", HandedBack: 2}},
		Bounces: map[string]int{"userunknown": 1, "mailboxfull": 4}, Deferrals: map[string]int{"greylisted": 30},
	}
}

func (b backend) Shape(_ context.Context, by string, f control.Filter) ([]control.Shape, error) {
	old := control.Shape{Name: "old." + by}
	for n := range 12 {
		old.Add(time.Duration(n*n*n) * time.Minute)
	}
	young := control.Shape{Name: f.State + "a.destination.whose.name.is.far.too.long.to.be.shown.example"}
	young.Add(0)
	return []control.Shape{old, young, {Total: 1, ByAge: [10]int{1}}}, nil
}

// Messages finds text in senders, and knows no other condition.
func (b backend) Messages(ctx context.Context, f control.Filter, yield func(*control.Message) error) error {
	for i := range b {
		if !strings.Contains(b[i].Sender, f.Text) {
			continue
		}
		if err := yield(&b[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b backend) Streams() []control.Stream {
	return []control.Stream{
		{Name: "news.example.com", Waiting: 1200, Deferred: 30, Active: 20, Held: 3, Priority: 4},
		{Name: "sale.example.com", Waiting: 7, Paused: "wrong price"},
	}
}

func (b backend) Standing() control.StandingOrders {
	at := time.Unix(1_700_000_000, 0)
	return control.StandingOrders{
		Pauses:   []control.Pause{{Filter: control.Filter{Site: "google"}, Reason: "too fast", Who: "ann (uid 1000)", Since: at, Until: at.Add(time.Hour)}},
		Limits:   []control.Limit{{Name: "general", Sessions: 5, Rate: 0.5, Until: at.Add(time.Hour), Who: "root (uid 0)"}},
		Released: []control.Release{{Filter: control.Filter{Queue: "yahoo", Stream: "old list"}, Since: at, Until: at.Add(24 * time.Hour)}},
	}
}

// Pause wants one pause, with its end in two hours.
func (b backend) Pause(_ context.Context, x control.Pause) error {
	if x.Filter == (control.Filter{Site: "both.example"}) {
		return nil
	}
	if x.Filter != (control.Filter{Queue: "general", Stream: "news"}) || x.Reason != "why" || time.Until(x.Until).Round(time.Minute) != 2*time.Hour {
		return fmt.Errorf("brake %+v", x)
	}
	return nil
}

func (b backend) Resume(_ context.Context, f control.Filter) ([]control.Pause, error) {
	if f != (control.Filter{User: "joe"}) {
		return nil, fmt.Errorf("no brake is on for %s: %w", f, control.ErrUnknown)
	}
	return b.Standing().Pauses, nil
}

func (b backend) Forget(context.Context, string) (int, error) { return 3, nil }

func (b backend) Limit(_ context.Context, l control.Limit) error {
	if l.Name != "google" && l.Name != "both.example" || l.Sessions != 5 || l.Rate != 10 || time.Until(l.Until).Round(time.Minute) != time.Hour {
		return fmt.Errorf("limit %s %d %v", l.Name, l.Sessions, l.Rate)
	}
	return nil
}

func (b backend) Prioritize(_ context.Context, p control.Priority) error {
	if p.Stream != "news.example.com" || p.Priority != 4 {
		return fmt.Errorf("priority %+v", p)
	}
	return nil
}

func (b backend) Act(_ context.Context, o control.Action, tell func(control.Selected)) (control.Selected, error) {
	tell(control.Selected{Recipients: 1})
	switch o.Filter {
	case control.Filter{User: "joe"}:
		return control.Selected{Recipients: 100_000, Messages: 90_000, Active: 1}, nil
	case control.Filter{User: "nobody"}, control.Filter{All: true}:
		return control.Selected{}, nil
	}
	return control.Selected{Recipients: 7}, fmt.Errorf("order %+v", o)
}

func (b backend) ReloadConfig(context.Context) error {
	return fmt.Errorf("millrace.toml:7: no such key")
}

func (b backend) WebLink() (string, error) { return "http://127.0.0.1:8891/enter?token=x", nil }

func (b backend) Milter(control.MilterReport) (a control.MilterAnswer) { return }

func (b backend) FindSite(_ context.Context, text string) (control.SiteFound, error) {
	switch text {
	case "both.example": // from two addresses, at one of which no mail is left
		return control.SiteFound{Several: []string{"google", "gone", "google"}, Others: 19}, nil
	case "google", "gmail.com":
	default:
		return control.SiteFound{}, fmt.Errorf("site %s: %w", text, control.ErrUnknown)
	}
	return control.SiteFound{
		Name: "google", Hosts: []string{"mx1.google.example"}, Domains: []string{"gmail.com"},
		Addresses: []string{"192.0.2.1", "2001:db8::1"},
	}, nil
}

func (b backend) Why(site string) ([]control.Change, error) {
	if site != "google" && site != "gmail.com" {
		return nil, fmt.Errorf("site %s: %w", site, control.ErrUnknown)
	}
	at := time.Unix(1_700_000_000, 0)
	return []control.Change{
		{At: at, From: 0, To: 2, Cause: "start"},
		{At: at.Add(time.Minute), From: 20, To: 11, Pace: 12.5, Cause: "refused with 11 up: 421 too many", Now: &control.Account{
			Site: b.Status().Sites[0], MaxSessions: 20, LimitsBy: "the configuration", Whose: "each address", Lag: 0.4, Reply: "421 too many", Host: 1, Breaker: "streams are held above 5% hard bounces",
			Addresses: []control.Address{{Address: "192.0.2.25:25", Held: 8, Accepted: 8, Limited: true, Reply: "421 too many"}, {Address: "[2001:db8::25]:25", Down: true, Pace: 2},
				{Address: "192.0.2.26:25", Down: true, Failing: &control.Failing{Times: 3, Since: time.Unix(1_700_000_000, 0), Until: time.Unix(1_700_000_240, 0), How: "answered 554", Why: "go away"}},
				{Address: "192.0.2.27:25", Failing: &control.Failing{Times: 1, How: "refused the connection"}}},
		}},
	}, nil
}

// messages is a queue with each state that the listing shows in its own way.
func messages() backend {
	const refused = "host mx.example.com[192.0.2.1] said: 450 4.2.1 try later (in reply to RCPT TO command)"
	return backend{
		{
			QueueName: "google", ID: "M1-A0", HostID: "4F0C21", ArrivalTime: 1_700_000_000, Size: 1500, Sender: "news@example.com",
			Recipients: []control.Recipient{{Address: "a@gmail.com", State: "waiting"}, {Address: "b@gmail.com", State: "active"}},
		},
		{
			QueueName: "general", ID: "M1-F00", HostID: "4F0C22", ArrivalTime: 1_700_000_061, Size: 10_000_000,
			Recipients: []control.Recipient{
				{Address: "c@example.com", State: "deferred", Reason: refused},
				{Address: "d@example.com", State: "deferred", Reason: refused},
				{Address: "e@example.com", State: "deferred", Reason: "connect to mx.example.com[192.0.2.1]:25: Connection refused"},
				{Address: "f@example.com", State: "waiting"},
			},
		},
		{
			QueueName: "general", ID: "M1-1F00", HostID: "4F0C23", ArrivalTime: 1_700_000_062, Size: 800, Sender: "sale@example.com",
			Recipients: []control.Recipient{{Address: "g@example.com", State: "held", Reason: "wrong price"}},
		},
	}
}

// listing is what mailq prints for messages(), in UTC.
const listing = `----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------
M1-A0*                1500 Tue Nov 14 22:13:20 news@example.com
                                               a@gmail.com
                                               b@gmail.com

M1-F00            10000000 Tue Nov 14 22:14:21 MAILER-DAEMON
(host mx.example.com[192.0.2.1] said: 450 4.2.1 try later (in reply to RCPT TO command))
                                               c@example.com
                                               d@example.com
                 (connect to mx.example.com[192.0.2.1]:25: Connection refused)
                                               e@example.com
                                                          (reason unavailable)
                                               f@example.com

M1-1F00!               800 Tue Nov 14 22:14:22 sale@example.com
                                                                 (wrong price)
                                               g@example.com

-- 9767 Kbytes in 3 Requests.
`

// serve opens a control socket over b and returns a configuration that names it.
func serve(t *testing.T, b control.Backend) string {
	t.Helper()
	dir := t.TempDir()
	address := "unix:" + filepath.Join(dir, "s")
	s, err := control.Listen(address, b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return configure(t, dir, address)
}

func configure(t *testing.T, dir, address string) string {
	t.Helper()
	path := filepath.Join(dir, "millrace.toml")
	if err := os.WriteFile(path, []byte("hostname = \"mail.example.com\"\n[agent]\ncontrol = \""+address+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestQueueListingTellsWhatIsStuck(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	l := mailq{out: &b}
	m := control.Message{ID: "M2-A0", Recipients: []control.Recipient{
		{Address: "a@example.com", State: "stuck", Reason: "host said: 550 no"}, {Address: "b@example.com", State: "deferred", Reason: "host said: 550 no"},
	}}
	if err := l.message(&m); err != nil || strings.Count(b.String(), " (stuck: host said: 550 no)\n") != 1 || strings.Count(b.String(), " (host said: 550 no)\n") != 1 {
		t.Errorf("%v\n%s", err, b.String())
	}
}

func TestQueueIsListedAsMailqDoes(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, messages()), "queue")
	if r.code != 0 || r.stderr != "" {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if r.stdout != listing {
		t.Errorf("got:\n%s\nwant:\n%s", r.stdout, listing)
	}
}

func TestOneRequestIsNotPlural(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, messages()[:1]), "queue")
	if !strings.HasSuffix(r.stdout, "\n-- 1 Kbytes in 1 Request.\n") {
		t.Errorf("got:\n%s", r.stdout)
	}
}

func TestEmptyQueueIsSaidToBe(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, backend(nil)), "q")
	if r.code != 0 || r.stdout != "Mail queue is empty\n" {
		t.Errorf("exit code %d: %q", r.code, r.stdout)
	}
}

// TestQueueAsJSONIsThatOfPostqueue reads the names that tools for postqueue -j use.
func TestQueueAsJSONIsThatOfPostqueue(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, messages()), "queue", "--json")
	lines := strings.Split(strings.TrimSuffix(r.stdout, "\n"), "\n")
	if r.code != 0 || len(lines) != 3 {
		t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	var m struct {
		QueueName   string `json:"queue_name"`
		QueueID     string `json:"queue_id"`
		ArrivalTime int64  `json:"arrival_time"`
		MessageSize int64  `json:"message_size"`
		Sender      *string
		Recipients  []struct {
			Address     string
			DelayReason string `json:"delay_reason"`
		}
	}
	if err := json.Unmarshal([]byte(lines[1]), &m); err != nil {
		t.Fatal(err)
	}
	if m.QueueName != "general" || m.QueueID != "M1-F00" || m.ArrivalTime != 1_700_000_061 || m.MessageSize != 10_000_000 ||
		m.Sender == nil || *m.Sender != "" || len(m.Recipients) != 4 ||
		m.Recipients[2].Address != "e@example.com" || !strings.HasPrefix(m.Recipients[2].DelayReason, "connect to") {
		t.Errorf("got %+v of %s", m, lines[1])
	}
}

func TestQueueSaysThatNoAgentRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := millrace(t, "TZ=UTC", "--config", configure(t, dir, "unix:"+filepath.Join(dir, "s")), "queue")
	if r.code != program.ExitFailure || r.stdout != "" || !strings.HasPrefix(r.stderr, "millrace: millrace-agent is not running") {
		t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
}
