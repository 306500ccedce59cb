package outcomes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		child(dir)
		return
	}
	leaks.Main(m)
}

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

var week = Policy{Keep: 7 * 24 * time.Hour, KeepTotals: 400 * 24 * time.Hour}

// bench is an Outcomes whose clock a test sets, and whose filling it does by hand.
type bench struct {
	*Outcomes
	t    testing.TB
	now  time.Time
	free int64
	logs strings.Builder
}

func begin(t testing.TB, dir string, p Policy) *bench {
	t.Helper()
	b := &bench{t: t, now: noon, free: math.MaxInt64}
	b.Outcomes = New(Options{
		StateDirectory: dir, Log: slog.New(slog.NewTextHandler(&b.logs, nil)), Now: func() time.Time { return b.now },
		Free: func(string) (int64, error) { return b.free, nil },
	})
	b.Use(p)
	t.Cleanup(b.Close)
	return b
}

// sent is an event of a message of one recipient.
func sent(at time.Time, i int) eventlog.Record {
	return eventlog.Record{
		Time: at, Event: "sent", ID: spool.ID(7<<32 + i*8192), QueueID: fmt.Sprintf("4f%09dz", i), Stream: "news", Recipient: fmt.Sprintf("user%d@example%d.com", i, i%50),
		Domain: fmt.Sprintf("example%d.com", i%50), Queue: "general", Site: fmt.Sprintf("site%d", i%20), Relay: fmt.Sprintf("mx%d.example[192.0.2.1]:25", i%20), Tries: 1,
		Class: "none", Code: 250, Enhanced: "2.0.0", Reply: fmt.Sprintf("250 2.0.0 Ok: queued as 4R%09dQ", i),
	}
}

func (b *bench) fill() {
	b.t.Helper()
	b.Outcomes.hasty = time.Time{}
	b.Outcomes.fill(context.Background(), true)
}

func (b *bench) ask(q Question) (list []Entry) {
	b.t.Helper()
	err := b.History(context.Background(), q, func(e *Entry) error { list = append(list, *e); return nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// counts are the rows of all days, and the sum of all counts.
func (b *bench) counts() (rows, totals int) {
	b.t.Helper()
	for _, path := range b.files() {
		rows += query(b.t, path, "SELECT count(*) FROM attempts")
	}
	if _, err := os.Stat(b.totalsPath()); err == nil {
		totals = query(b.t, b.totalsPath(), "SELECT coalesce(sum(n), 0) FROM totals")
	}
	return rows, totals
}

// has fails the test if there are not n rows, and as many events counted.
func (b *bench) has(n int, when string) {
	b.t.Helper()
	if rows, totals := b.counts(); rows != n || totals != n {
		b.t.Errorf("%s: %d rows, %d counted, want %d\nlog:\n%s", when, rows, totals, n, b.logs.String())
	}
}

func query(t testing.TB, path, text string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, "mode=rw&_pragma=busy_timeout(2000)"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(text).Scan(&n); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

func TestHistoryTellsEveryAttempt(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), week)
	first := eventlog.Record{
		Time: noon, Event: "deferred", ID: 7<<32 | 5, Ordinal: 1, QueueID: "4fKz1T0Qx9z", Stream: "news", Recipient: "Bob@example.com", Domain: "example.com", Queue: "general",
		Site: "example", Relay: "mx1.example[192.0.2.1]:25", Source: "192.0.2.25", Tries: 1, Class: "ratelimited", Rule: "r", Code: 421, Enhanced: "4.7.0",
		Reply: "421 4.7.0 bob@example.com, try later abc123def", Due: noon.Add(5 * time.Minute),
	}
	second := first
	second.Time, second.Event, second.Tries, second.Class, second.Code, second.Enhanced, second.Due = noon.Add(5*time.Minute), "bounced", 2, "userunknown", 550, "5.1.1", time.Time{}
	second.Hard, second.Reply = true, "550 5.1.1 no bob here"
	other := sent(noon, 1)
	other.ID, other.QueueID = first.ID, first.QueueID
	for _, r := range []eventlog.Record{other, first, second, sent(noon, 2)} {
		b.Add(r)
	}
	b.fill()
	got := b.ask(Question{Recipient: "bob@EXAMPLE.com"})
	if len(got) != 2 || got[0].Record != first || got[1].Record != second {
		t.Errorf("%+v\nwant %+v\nand %+v", got, first, second)
	}
	if got := b.ask(Question{QueueID: "4fKz1T0Qx9z"}); len(got) != 3 {
		t.Errorf("by queue id: %+v", got)
	}
	if got := b.ask(Question{Message: first.ID}); len(got) != 3 {
		t.Errorf("by message: %+v", got)
	}
	stream := "news"
	if got := b.ask(Question{Stream: &stream}); len(got) != 4 {
		t.Errorf("by stream: %+v", got)
	}
	if got := b.ask(Question{Stream: &stream, Since: noon.Add(time.Minute)}); len(got) != 1 {
		t.Errorf("since a minute later: %+v", got)
	}
	if got := b.ask(Question{Recipient: "nobody@example.com"}); len(got) != 0 {
		t.Errorf("of nobody: %+v", got)
	}
	b.has(4, "in the end")
}

// Files of an agent that knew of no sources are read as they are, written on, and left as that
// agent can write them on, too.
func TestFileWithoutSourcesIsReadAndWrittenOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := begin(t, dir, week)
	b.Add(sent(noon, 1))
	b.fill()
	path := b.files()[0]
	b.Close()
	db, err := sql.Open("sqlite", dsn(path, ""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("DROP VIEW outcomes; DROP TABLE sources") // as it was
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	find := finder{question: Question{QueueID: sent(noon, 1).QueueID}, most: 10}
	if err := b.read(t.Context(), path, func(conn *sql.Conn) error { _, err := find.next(t.Context(), conn); return err }); err != nil || len(find.page) != 1 {
		t.Errorf("%+v, %v", find.page, err)
	}
	b = begin(t, dir, week)
	r := sent(noon, 2)
	r.Source = "192.0.2.25"
	b.Add(r)
	b.fill()
	stream := "news"
	if got := b.ask(Question{Stream: &stream}); len(got) != 2 || got[0].Source != "" || got[1].Source != r.Source {
		t.Errorf("%+v", got)
	}
	if n := query(t, path, "SELECT count(*) FROM pragma_table_info('kinds')"); n != 15 {
		t.Errorf("%d columns of kinds", n)
	}
	b.has(2, "in the end")
}

// cpu is the CPU time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRows is of what one event costs from the log to the databases: CPU time of the
// process, without the making of the event.
func BenchmarkRows(b *testing.B) {
	x := begin(b, b.TempDir(), week)
	records := make([]eventlog.Record, 2000)
	var used time.Duration
	for i := 0; b.Loop(); i++ {
		if i%len(records) == 0 {
			for k := range records {
				records[k] = sent(noon.Add(time.Duration(i)*time.Millisecond), i+k)
			}
			used -= cpu()
			for k := range records {
				x.Add(records[k])
			}
			x.fill()
			used += cpu()
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(used)/float64((b.N+len(records)-1)/len(records)*len(records)), "cpu-ns/op")
	if trouble := x.Trouble(); trouble != "" {
		b.Error(trouble)
	}
	x.Close()
	b.ReportMetric(float64(x.size())/float64(b.N), "octets/row")
}

// Counts become wider as they age, and none is lost by that.
func TestCountsAreFoldedAndDropped(t *testing.T) {
	t.Parallel()
	b := begin(t, t.TempDir(), Policy{KeepTotals: 400 * 24 * time.Hour})
	for _, age := range []time.Duration{0, 10 * time.Minute, 3 * 24 * time.Hour, 3*24*time.Hour + 20*time.Minute, 60 * 24 * time.Hour, 60*24*time.Hour + 5*time.Hour} {
		b.Add(sent(noon.Add(-age), 1))
	}
	b.Add(eventlog.Record{Time: noon, Event: "bounced", Class: "userunknown", Stream: "news@example.com", Recipient: "a@example.com"})
	old := sent(noon.Add(-500*24*time.Hour), 1)
	b.Add(old)
	b.fill()
	for range 2 {
		b.now = b.now.Add(time.Hour)
		b.fill()
	}
	past, err := b.Past(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, c := range past {
		fmt.Fprintf(&got, "%s %s %d %d\n", c.Start.UTC().Format("01-02 15:04"), c.Width, c.Sent, c.Bounces)
	}
	if want := "09-29 00:00 24h0m0s 2 0\n11-25 11:00 1h0m0s 1 0\n11-25 12:00 1h0m0s 1 0\n11-28 11:50 5m0s 1 0\n11-28 12:00 5m0s 1 1\n"; got.String() != want {
		t.Errorf("%s\nwant\n%s", got.String(), want)
	}
	if n := query(t, b.totalsPath(), "SELECT count(*) FROM totals WHERE stream LIKE '%news@%'"); n != 0 {
		t.Error("a stream's name is an address")
	}
	if rows, _ := b.counts(); rows != 0 {
		t.Errorf("%d rows", rows)
	}
}
