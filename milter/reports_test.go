package milter_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter"
)

// fakeBox keeps reports in memory.
type fakeBox struct {
	mu    sync.Mutex
	kept  [][]byte
	about []uint64 // the copies that they are about
	err   error
	hold  chan struct{} // if set, Put waits for it

	breaks bool // Put panics
}

func (f *fakeBox) Put(b []byte, about uint64, _ time.Time) (int, error) {
	if f.breaks {
		panic("a defect")
	}
	if f.hold != nil {
		<-f.hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.kept = append(f.kept, bytes.Clone(b))
		f.about = append(f.about, about)
	}
	return 0, f.err
}

func (f *fakeBox) all() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kept
}

// serveReports runs a milter that reads reports.
func serveReports(t *testing.T, cfg *config.Config, box milter.Reports) *serving {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOptions(t, cfg, milter.Options{Spool: &fakeSpool{}, Key: loopKey, Reports: box}, ln)
}

// readingAll is a configuration of which nothing is in scope.
func readingAll() *config.Config {
	c := divertAll()
	c.Milter.Scope = nil
	c.Feedback.Read = true
	return c
}

// marked is a Received field of ours, for a message of one recipient.
func marked() string {
	keys := trace.NewKeys(loopKey)
	return string(trace.Received(&spool.Envelope{
		QueueID: "4Q1", Protocol: "ESMTP", ByHost: "mail.lists.example", Arrived: time.Unix(1790000000, 0), Stream: "news",
		Recipients: []spool.Recipient{{Address: "bob@remote.example"}},
	}, spool.MakeID(1, 2), "h", &keys, []uint32{0}))
}

// report is one of the dialects: fields as the MTA gives them, and the body.
func report(t *testing.T, name, received string) (fields []string, body string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "agent", "feedback", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "\n\n")
	text = strings.NewReplacer("@RCPT@", "bob@remote.example", "@FROM@", "news@lists.example", "@RECEIVED@\n", strings.ReplaceAll(received, "\r\n", "\n")).Replace(text)
	head, body, _ := strings.Cut(text, "\n\n")
	for line := range strings.SplitSeq(head, "\n") {
		if line[0] == ' ' || line[0] == '\t' {
			fields[len(fields)-1] += "\n" + line
			continue
		}
		fields = append(fields, line)
	}
	return fields, strings.ReplaceAll(body, "\n", "\r\n")
}

// What may be a report on mail of ours is read once its verdict is given; only what carries
// our mark is kept, as it came.
func TestReportsAreReadInPassing(t *testing.T) {
	t.Parallel()
	box := &fakeBox{}
	s := serveReports(t, readingAll(), box)
	m := connect(t, s, postfixVersion, actions, steps)
	send := func(fields []string, body string) {
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
		if v := m.body(body); v != "a" {
			t.Errorf("verdict %q on a report", v)
		}
	}
	want := map[string]uint64{}
	for _, name := range []string{"seen/postfix.eml", "seen/qmail.eml", "seen/arf-jmrp.eml", "heldout/arf-outlook.eml"} {
		send(report(t, name, marked()))
		send(report(t, name, "Received: by mail.lists.example (Millrace)\r\n\tid 4Q1.M1-2.0123456789abcdef0123; x\r\n"))
		want["kept"]++
		want["unverified"]++
	}
	send([]string{"Content-Type: multipart/report; boundary=x", "From: mailer-daemon@x.example"}, "--x\r\n\r\nnothing\r\n--x--\r\n")
	want["none"]++
	// All other mail is let go at its header.
	for _, fields := range [][]string{
		{"From: a@b.example", "Content-Type: multipart/mixed; boundary=multipart/report"},
		{"From: mailer-daemon@b.example", "Subject: success notice"},
		{"From: staff@hotmail.com", "Subject: hello", "Content-Type: multipart/mixed; boundary=x"},
	} {
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), acc)
	}
	s.stop() // what waits is read
	got := s.server.Counts().Reports
	for what, n := range want {
		if got[what] != n {
			t.Errorf("%s: %d, want %d; all: %v", what, got[what], n, got)
		}
	}
	kept := box.all()
	if len(kept) != 4 {
		t.Fatalf("%d reports are kept", len(kept))
	}
	fields, body := report(t, "seen/postfix.eml", marked())
	if whole := strings.ReplaceAll(strings.Join(fields, "\n"), "\n", "\r\n") + "\r\n\r\n" + body; string(kept[0]) != whole {
		t.Errorf("kept\n%q\nwant\n%q", kept[0], whole)
	}
	if a := slices.Compact(box.about); len(a) != 1 {
		t.Errorf("reports on one copy are about %d", len(a))
	}
	for _, b := range kept {
		if _, err := feedback.Parse(b); err != nil {
			t.Errorf("what is kept cannot be read: %v", err)
		}
	}
}

func TestReportsAreNotReadWhereTheAdminSaysSo(t *testing.T) {
	t.Parallel()
	cfg := readingAll()
	cfg.Feedback.Read = false
	s := serveReports(t, cfg, &fakeBox{})
	m := connect(t, s, postfixVersion, actions, steps)
	fields, _ := report(t, "seen/postfix.eml", marked())
	m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), acc)
}

// A report of any length costs so much memory and no more, and its beginning is read.
func TestLongReportIsCut(t *testing.T) {
	t.Parallel()
	box := &fakeBox{}
	s := serveReports(t, readingAll(), box)
	m := connect(t, s, postfixVersion, actions, steps)
	fields, body := report(t, "seen/exchange.eml", marked())
	m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
	if v := m.body(strings.Replace(body, "\r\n--b0undary--", strings.Repeat("\r\nmuch is new", 400_000)+"\r\n--b0undary--", 1)); v != "a" {
		t.Errorf("verdict %q", v)
	}
	s.stop()
	if kept := box.all(); len(kept) != 1 || len(kept[0]) != feedback.MaxSize {
		t.Errorf("%d reports are kept", len(kept))
	}
}

// A disk that hangs, or a flood, holds up no session: reports pass unread.
func TestReportsNeverWait(t *testing.T) {
	t.Parallel()
	box := &fakeBox{hold: make(chan struct{}), err: errors.New("the disk is full")}
	s := serveReports(t, readingAll(), box)
	m := connect(t, s, postfixVersion, actions, steps)
	fields, body := report(t, "seen/postfix.eml", marked())
	for range 100 {
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
		if v := m.body(body); v != "a" {
			t.Fatalf("verdict %q", v)
		}
	}
	// Messages whose clients go away in the middle give their places back.
	for range 100 {
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
		m.check(m.Abort())
	}
	m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
	m.check(m.Abort())
	close(box.hold)
	s.stop()
	got := s.server.Counts().Reports
	if got["unread"] < 60 || got["unread"]+got["lost"] != 100 {
		t.Errorf("%v", got)
	}
}

// A defect that a report meets is told, and ends no milter.
func TestReportThatBreaksSomethingIsLeftUnread(t *testing.T) {
	t.Parallel()
	box := &fakeBox{breaks: true}
	s := serveReports(t, readingAll(), box)
	m := connect(t, s, postfixVersion, actions, steps)
	fields, body := report(t, "seen/postfix.eml", marked())
	for range 2 {
		m.wants(m.headers("<>", []string{"<news@lists.example> local"}, fields...), cont)
		if v := m.body(body); v != "a" {
			t.Fatalf("verdict %q", v)
		}
	}
	s.stop()
	if got := s.server.Counts().Reports; got["none"] != 2 {
		t.Errorf("%v", got)
	}
	if !strings.Contains(s.log.String(), "a defect") {
		t.Errorf("logged:\n%s", s.log)
	}
}
