package eventlog

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var noon = time.Date(2026, 11, 28, 12, 0, 0, 123000, time.UTC)

func open(t *testing.T, o Options) *Log {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "events")
	}
	o.Log = slog.New(slog.DiscardHandler)
	l := Open(o)
	t.Cleanup(func() { l.Close(context.Background()) })
	return l
}

func (l *Log) put(t *testing.T, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		l.Add(&Record{Time: noon, Event: "sent", ID: spool.ID(i), Recipient: fmt.Sprintf("r%d@example.com", i), Reply: "250 ok"})
	}
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// all reads from a cursor to the end, in batches of so many.
func (l *Log) all(t *testing.T, from Cursor, most int) (ids []int, lost uint64, end Cursor) {
	t.Helper()
	for {
		var b Batch
		if err := l.Read(from, most, &b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Records {
			ids = append(ids, int(b.Records[i].ID))
		}
		lost += b.Lost
		from = b.Next
		if !b.More {
			return ids, lost, from
		}
	}
}

func upTo(ids []int, from, to int) bool {
	if len(ids) != to-from {
		return false
	}
	for i, id := range ids {
		if id != from+i {
			return false
		}
	}
	return true
}

func TestDeliveryIsReadBackWhole(t *testing.T) {
	t.Parallel()
	l := open(t, Options{})
	l.Delivery(&event.Delivery{
		Time: noon, ID: 77<<32 | 5, Ordinal: 1, Domain: "example.com", Queue: "general", Site: "example", Relay: "mx.example.com[192.0.2.1]:25", Source: netip.MustParseAddr("192.0.2.25"),
		Tries: 3, Status: event.Deferred, Class: outcome.ClassRateLimited, Hard: true, Rule: "r", Code: 421, Enhanced: "4.7.0", Reason: "421 4.7.0 later", Due: noon.Add(time.Hour),
		Envelope: &spool.Envelope{QueueID: "4fKz", Stream: "news", Origin: spool.Report, Recipients: []spool.Recipient{{Address: "a@example.com"}, {Address: "b@example.com"}}},
	})
	l.Delivery(&event.Delivery{Time: noon, Status: event.Returned, Relay: "none"})
	l.Delivery(&event.Delivery{Time: noon, ID: 1, Status: event.Damaged, Relay: "none"})
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	var b Batch
	if err := l.Read(Cursor{}, 10, &b); err != nil || len(b.Records) != 2 || b.More || b.Lost != 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	want := Record{
		Time: noon, Event: "deferred", ID: 77<<32 | 5, Ordinal: 1, QueueID: "4fKz", Report: true, Stream: "news", Recipient: "b@example.com",
		Domain: "example.com", Queue: "general", Site: "example", Relay: "mx.example.com[192.0.2.1]:25", Source: "192.0.2.25", Tries: 3, Class: "ratelimited", Hard: true,
		Rule: "r", Code: 421, Enhanced: "4.7.0", Reply: "421 4.7.0 later", Due: noon.Add(time.Hour),
	}
	want.Class = outcome.ClassRateLimited.String()
	if b.Records[0] != want {
		t.Errorf("%+v\nwant %+v", b.Records[0], want)
	}
	if r := b.Records[1]; r.Event != "damaged" || r.Relay+r.Source != "" || !r.Due.IsZero() {
		t.Errorf("%+v", r)
	}
}

func TestReaderSurvivesRotationAndRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentSize: 2000})
	for i := range 20 {
		l.put(t, 10*i, 10*i+10)
	}
	ids, lost, end := l.all(t, Cursor{}, 7)
	if !upTo(ids, 0, 200) || lost != 0 {
		t.Fatalf("%v, %d lost", ids, lost)
	}
	if len(l.segments) < 5 {
		t.Errorf("%d segments", len(l.segments))
	}
	l.Close(context.Background())
	l = open(t, Options{Dir: dir, After: end.Segment})
	l.put(t, 200, 230)
	if ids, lost, _ := l.all(t, end, 7); !upTo(ids, 200, 230) || lost != 0 {
		t.Errorf("after a restart: %v, %d lost", ids, lost)
	}
	if ids, lost, _ := l.all(t, Cursor{}, 1000); !upTo(ids, 0, 230) || lost != 0 {
		t.Errorf("all: %v, %d lost", ids, lost)
	}
}

func TestNumbersAreNotUsedTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	l.put(t, 0, 10)
	_, _, end := l.all(t, Cursor{}, 100)
	l.Close(context.Background())
	os.RemoveAll(dir)
	l = open(t, Options{Dir: dir, After: end.Segment})
	l.put(t, 10, 20)
	if ids, _, _ := l.all(t, end, 100); !upTo(ids, 10, 20) {
		t.Errorf("%v", ids)
	}
}

func TestTornEndIsCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir})
	l.put(t, 0, 10)
	_, _, end := l.all(t, Cursor{}, 100)
	path := l.path(1)
	l.Close(context.Background())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int64{1, 9, 30} {
		if err := os.Truncate(path, info.Size()-cut); err != nil {
			t.Fatal(err)
		}
		l = open(t, Options{Dir: dir, After: end.Segment})
		if ids, lost, _ := l.all(t, Cursor{}, 100); !upTo(ids, 0, 9) || lost != 0 {
			t.Errorf("%d octets less: %v, %d lost", cut, ids, lost)
		}
		l.Close(context.Background())
	}
	l = open(t, Options{Dir: dir, After: end.Segment})
	l.put(t, 10, 20)
	// What the reader has seen, and power loss has taken, is not read from elsewhere.
	if ids, lost, _ := l.all(t, end, 100); !upTo(ids, 10, 20) || lost != 0 {
		t.Errorf("from beyond the end: %v, %d lost", ids, lost)
	}
}

func TestDamagedSegmentIsLeftAtThatPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentSize: 800})
	l.put(t, 0, 10)
	l.put(t, 10, 20)
	l.put(t, 20, 30)
	b, err := os.ReadFile(l.path(1))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-40] ^= 1
	if err := os.WriteFile(l.path(1), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var first Batch
	if err := l.Read(Cursor{}, 100, &first); err != nil || len(first.Records) != 9 || !first.More {
		t.Fatalf("%d records, more %v, %v", len(first.Records), first.More, err)
	}
	if ids, lost, _ := l.all(t, first.Next, 100); !upTo(ids, 10, 30) || lost != 1 {
		t.Errorf("%v, %d lost", ids, lost)
	}
}

func TestOldSegmentsGoAndTheGapIsCounted(t *testing.T) {
	t.Parallel()
	l := open(t, Options{SegmentSize: 1000, MaxSize: 5000})
	l.put(t, 0, 10)
	_, _, end := l.all(t, Cursor{}, 100)
	for i := 1; i < 20; i++ {
		l.put(t, 10*i, 10*i+10)
	}
	if l.Size() > 6000 {
		t.Errorf("%d octets", l.Size())
	}
	ids, lost, _ := l.all(t, end, 7)
	if len(ids) == 0 || int(lost) != ids[0]-10 || !upTo(ids, ids[0], 200) {
		t.Errorf("%v, %d lost", ids, lost)
	}
}

func TestAddNeverWaitsAndTellsWhatWasLost(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "missing", "dir")
	if err := os.WriteFile(filepath.Dir(dir), nil, 0o600); err != nil { // a file where the directory is to be
		t.Fatal(err)
	}
	l := open(t, Options{Dir: dir})
	long := strings.Repeat("x", 1<<16)
	n := event.BufferSize>>16 + 10
	for i := range n {
		l.Add(&Record{Time: noon.Add(time.Duration(i) * time.Second), Event: "sent", ID: spool.ID(i), Reply: long})
	}
	if l.Trouble() == "" || l.Lost() == 0 {
		t.Fatalf("trouble %q, %d lost", l.Trouble(), l.Lost())
	}
	if err := os.Remove(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	for l.Flush(context.Background()) != nil || l.Trouble() != "" {
	}
	if err := l.Flush(context.Background()); err != nil { // the gap comes once the rest is written
		t.Fatal(err)
	}
	var b Batch
	if err := l.Read(Cursor{}, n, &b); err != nil {
		t.Fatal(err)
	}
	var lost uint64
	kept := 0
	for _, r := range b.Records {
		if r.Event == Gap {
			lost += r.Lost
			if !r.Time.Equal(noon.Add(time.Duration(kept)*time.Second)) || !r.Due.Equal(noon.Add(time.Duration(n-1)*time.Second)) {
				t.Errorf("%+v", r)
			}
		} else {
			kept++
		}
	}
	if b.More || kept+int(lost) != n || lost == 0 {
		t.Errorf("%d kept, %d lost of %d", kept, lost, n)
	}
}

func TestAddressesStandAsConfigured(t *testing.T) {
	t.Parallel()
	l := open(t, Options{Recipients: Recipients{Hash: func(string) int64 { return -5 }}})
	l.Add(&Record{Time: noon, Event: "bounced", Recipient: "bobby@example.com", Reply: "550 <bobby@example.com>: bobby is unknown"})
	l.Use(Recipients{None: true})
	l.Add(&Record{Time: noon, Event: "bounced", Recipient: "bobby@example.com", Reply: "550 <bobby@example.com>: bobby is unknown"})
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	var b Batch
	if err := l.Read(Cursor{}, 10, &b); err != nil || len(b.Records) != 2 || b.Records[0].Hash != -5 || b.Records[1].Hash != 0 {
		t.Fatalf("%+v, %v", b, err)
	}
	text, err := os.ReadFile(l.path(1))
	if err != nil || strings.Contains(string(text), "bobby") {
		t.Errorf("%q, %v", text, err)
	}
}

func TestErasedEventsAreGoneAndPlacesStay(t *testing.T) {
	t.Parallel()
	l := open(t, Options{SegmentSize: 1000})
	for i := range 5 {
		l.put(t, 10*i, 10*i+10)
	}
	var half Batch
	if err := l.Read(Cursor{}, 25, &half); err != nil {
		t.Fatal(err)
	}
	n, err := l.Erase(context.Background(), func(r *Record) bool { return r.Recipient == "r7@example.com" || r.Recipient == "r33@example.com" })
	if err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	if ids, lost, _ := l.all(t, half.Next, 100); len(ids) != 24 || lost != 0 || ids[0] != 25 {
		t.Errorf("%v, %d lost", ids, lost)
	}
	if ids, _, _ := l.all(t, Cursor{}, 100); len(ids) != 48 {
		t.Errorf("%v", ids)
	}
	files, _ := filepath.Glob(filepath.Join(l.o.Dir, "*"))
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "r33@") {
			t.Errorf("%s has the address still", f)
		}
	}
	l.put(t, 50, 60)
	if ids, lost, _ := l.all(t, half.Next, 100); len(ids) != 34 || lost != 0 {
		t.Errorf("%v, %d lost", ids, lost)
	}
}

func BenchmarkAdd(b *testing.B) {
	l := Open(Options{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
	defer l.Close(context.Background())
	r := Record{
		Time: noon, Event: "sent", ID: 77<<32 | 5, QueueID: "4fKz1T0Qx9z", Stream: "news.example.com", Recipient: "someone@example.com", Domain: "example.com",
		Queue: "general", Site: "example.com", Relay: "mx1.example.com[192.0.2.1]:25", Tries: 1, Class: "none", Code: 250, Enhanced: "2.0.0", Reply: "250 2.0.0 Ok: queued as 4fKz1T0Qx9z",
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l.Add(&r)
		if i%2000 == 0 { // as often as the writer would at 20,000 events a second
			if err := l.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	if n := l.Lost(); n > 0 {
		b.Errorf("%d lost", n)
	}
}

// What becomes of the segment that is written to, while it is, costs what it had unread and
// the events until that is seen; they are counted, and those after it are read.
func TestSegmentThatIsSpoiledWhileItIsWritten(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"removed":           os.Remove,
		"cut":               func(path string) error { return os.Truncate(path, 0) },
		"garbage":           func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("no event. ", 1000)), 0o600) },
		"directory removed": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := open(t, Options{})
			l.put(t, 0, 10)
			ids, _, at := l.all(t, Cursor{}, 100)
			if !upTo(ids, 0, 10) {
				t.Fatal(ids)
			}
			l.put(t, 10, 20)
			if err := spoil(l.path(1)); err != nil {
				t.Fatal(err)
			}
			if ids, lost, next := l.all(t, at, 100); len(ids) != 0 || lost != 0 {
				t.Errorf("%v, %d lost", ids, lost)
			} else {
				at = next
			}
			for i := 20; i < 30; i++ {
				l.Add(&Record{Time: noon, Event: "sent", ID: spool.ID(i)})
			}
			for l.Flush(context.Background()) != nil { // a directory is made at the second try
			}
			ids, lost, _ := l.all(t, at, 100)
			if !upTo(ids, 20, 30) || lost != 10 {
				t.Errorf("%v, %d lost", ids, lost)
			}
		})
	}
}

func TestEndIsBehindWhatIsWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, Options{Dir: dir, SegmentSize: 1000, MaxSize: 3000})
	begin := l.End()
	l.put(t, 0, 10)
	end := l.End()
	l.put(t, 10, 20)
	if ids, lost, _ := l.all(t, end, 7); !upTo(ids, 10, 20) || lost != 0 || end.Seq != 10 {
		t.Errorf("%v, %d lost, from %+v", ids, lost, end)
	}
	if ids, lost, _ := l.all(t, begin, 7); !upTo(ids, 0, 20) || lost != 0 {
		t.Errorf("%v, %d lost, from %+v", ids, lost, begin)
	}
	if start := l.Start(); start.Seq != 0 {
		t.Errorf("it starts at %+v", start)
	}
	for i := 2; i < 20; i++ {
		l.put(t, 10*i, 10*i+10)
	}
	ids, lost, _ := l.all(t, begin, 7)
	if start := l.Start(); len(ids) == 0 || int(lost) != ids[0] || start.Seq != lost {
		t.Errorf("%d lost, then %v; it starts at %+v", lost, ids, start)
	}
	if from, lost, _ := l.all(t, l.Start(), 7); lost != 0 || !slices.Equal(from, ids) {
		t.Errorf("%d lost, then %v", lost, from)
	}
	l.Close(context.Background())
	l = open(t, Options{Dir: dir})
	end = l.End()
	l.put(t, 200, 210)
	if ids, lost, _ := l.all(t, end, 7); !upTo(ids, 200, 210) || lost != 0 || end.Seq != 200 {
		t.Errorf("%v, %d lost, after a restart from %+v", ids, lost, end)
	}
}

func TestWhatCameBackIsReadBackWhole(t *testing.T) {
	t.Parallel()
	l := open(t, Options{})
	want := Record{Time: noon, Event: "complaint", Recipient: "a@far.test", Source: "192.0.2.1", Simulated: true, FeedbackType: "abuse", Reporter: "far.test", Uncounted: "old"}
	r := want
	l.Add(&r)
	if err := l.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	var b Batch
	if err := l.Read(Cursor{}, 1, &b); err != nil || len(b.Records) != 1 || b.Records[0] != want {
		t.Errorf("%+v, %v", b.Records, err)
	}
}

// formerSegment is a segment as commit 5a4eaeb wrote it, before records told of simulated
// receivers, of sources and of what comes back: in base64.
const formerSegment = `
bXJldmVudDEBAAAAAAAAAAAAAAAAAAAAcSpJm7QAAACzO015AQL2waiondWwBsCA/IGgAwMCpgQHYm91bmNlZAw0YlhxMXowQ2t5ejEQbmV3cy5leGFtcGxl
LmNvbQphQGZhci50ZXN0CGZhci50ZXN0B2dlbmVyYWwIZmFyLnRlc3QabXgxLmZhci50ZXN0WzE5Mi4wLjIuMV06MjULdXNlcnVua25vd24Hc2hpcHBlZAU1
LjEuMR81NTAgNS4xLjEgPGFAZmFyLnRlc3Q+OiB1bmtub3duYwAAAEgl5FABCPbKoqmd1bAGBwABwwMIZGVmZXJyZWQAAApiQGZhci50ZXN0CGZhci50ZXN0
B2dlbmVyYWwAAAtncmV5bGlzdGluZwAFNC43LjEPNDUxIDQuNy4xIGxhdGVy9s21xp/VsAZTAAAAQz/RZAEF9tOcqp3VsAYIAAH6AQtoYW5kZWRfYmFjawAA
AA1yZWxheTp1bml4Oi94AAAABG5vbmUAABQyNTAg4oCmQG5ld3MudGVzdCBva9b/////////JwAAAIxSAWEBGPbclqud1bAGAAAAAANnYXAAAAAAAAAAAAAA
APblkKyd1bAGrAI=`

// A log of the program before this one is read, and gone on with.
func TestFormerLogIsRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := base64.StdEncoding.DecodeString(formerSegment)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0000000000000001.log"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, Options{Dir: dir})
	l.put(t, 9, 10)
	var got Batch
	if err := l.Read(Cursor{}, 10, &got); err != nil || got.Lost > 0 {
		t.Fatalf("%v, %d lost", err, got.Lost)
	}
	want := []Record{
		{
			Time: noon, Event: "bounced", ID: 0x1A003F0040, Ordinal: 3, QueueID: "4bXq1z0Ckyz1", Stream: "news.example.com", Recipient: "a@far.test", Domain: "far.test", Queue: "general",
			Site: "far.test", Relay: "mx1.far.test[192.0.2.1]:25", Tries: 2, Class: "userunknown", Hard: true, Rule: "shipped", Code: 550, Enhanced: "5.1.1", Reply: "550 5.1.1 <a@far.test>: unknown",
		},
		{
			Time: noon.Add(time.Second), Event: "deferred", ID: 7, Recipient: "b@far.test", Domain: "far.test", Queue: "general", Tries: 1, Class: "greylisting", Code: 451,
			Enhanced: "4.7.1", Reply: "451 4.7.1 later", Due: noon.Add(5 * time.Minute),
		},
		{Time: noon.Add(2 * time.Second), Event: "handed_back", ID: 8, Report: true, Hash: -42, Domain: "relay:unix:/x", Tries: 1, Class: "none", Code: 250, Reply: "250 …@news.test ok"},
		{Time: noon.Add(3 * time.Second), Event: Gap, Due: noon.Add(4 * time.Second), Lost: 300},
		{Time: noon, Event: "sent", ID: 9, Recipient: "r9@example.com", Class: "", Reply: "250 ok"},
	}
	if !slices.Equal(got.Records, want) {
		t.Errorf("%+v", got.Records)
	}
	if got.Next.Seq != 5 {
		t.Errorf("it goes on as number %d", got.Next.Seq)
	}
}
