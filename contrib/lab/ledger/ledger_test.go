package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func msg(id, content string, rcpts ...string) *Message {
	m := &Message{ID: []byte(id), Sender: []byte("s@x"), Hash: hashOf(content), Time: time.Unix(1, 2), Size: 3, Above: 4, Conn: 5}
	for _, r := range rcpts {
		m.Recipients = append(m.Recipients, []byte(r))
	}
	return m
}

func TestRecordsComeBackAsWritten(t *testing.T) {
	t.Parallel()
	var l Ledger
	m := msg("id", "c", "a@x", "b@y")
	m.Place = l.Place("google", "mx1")
	m.Unanswered = true
	l.Add(m)
	l.Add(msg("", "", ""))
	want := []Record{
		{ID: "id", Recipient: "a@x", Sender: "s@x", Hash: hashOf("c"), Time: time.Unix(1, 2), Provider: "google", Host: "mx1", Conn: 5, Size: 3, Above: 4, Unanswered: true},
		{ID: "id", Recipient: "b@y", Sender: "s@x", Hash: hashOf("c"), Time: time.Unix(1, 2), Provider: "google", Host: "mx1", Conn: 5, Size: 3, Above: 4, Unanswered: true},
		{Sender: "s@x", Hash: hashOf(""), Time: time.Unix(1, 2), Conn: 5, Size: 3, Above: 4},
	}
	if got := slices.Collect(l.Records()); !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
	if l.Len() != 3 || l.Messages() != 2 {
		t.Errorf("%d records of %d messages", l.Len(), l.Messages())
	}
}

func TestPlaceIsNumberedOnce(t *testing.T) {
	t.Parallel()
	var l Ledger
	if a, b, c := l.Place("p", "1"), l.Place("p", "2"), l.Place("p", "1"); a != 1 || b != 2 || c != 1 {
		t.Errorf("places %d %d %d", a, b, c)
	}
}

func TestLedgerOfManyChunks(t *testing.T) {
	t.Parallel()
	var l Ledger
	const n = 30_000
	long := strings.Repeat("r", 2*chunkSize) // one message bigger than a chunk
	for i := range n {
		l.Add(msg(fmt.Sprint(i), "c", "recipient-of-some-length@domain.example"))
		if i == n/2 {
			l.Add(msg("long", "c", long))
		}
	}
	next := 0
	for r := range l.Records() {
		if r.ID == "long" {
			if r.Recipient != long {
				t.Fatal("long recipient damaged")
			}
			continue
		}
		if r.ID != fmt.Sprint(next) {
			t.Fatalf("record %d has id %s", next, r.ID)
		}
		next++
	}
	if next != n || len(l.chunks) < 3 {
		t.Errorf("%d records in %d chunks", next, len(l.chunks))
	}
}

func TestWaitReturnsWhenRecordsAreThere(t *testing.T) {
	t.Parallel()
	var l Ledger
	done := make(chan error)
	go func() { done <- l.Wait(context.Background(), 3) }()
	l.Add(msg("1", "", "a", "b"))
	l.Add(msg("2", "", "a"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- l.Wait(ctx, 4) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestJSONRoundTrip(t *testing.T) {
	t.Parallel()
	var l Ledger
	m := msg("id", "c", "a@x", "<&>@y")
	m.Place = l.Place("google", "mx1")
	l.Add(m)
	m = msg("id2", "d", "a@x")
	m.Unanswered = true
	l.Add(m)
	l.Refuse([]byte("no@x"))
	var text bytes.Buffer
	if err := l.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(text.String(), "\n"); lines != 4 {
		t.Errorf("%d lines:\n%s", lines, text.String())
	}
	back, err := ReadJSON(&text)
	if err != nil {
		t.Fatal(err)
	}
	equal := slices.EqualFunc(slices.Collect(back.Records()), slices.Collect(l.Records()), func(a, b Record) bool {
		same := a.Time.Equal(b.Time)
		a.Time = b.Time
		return same && a == b
	})
	if !equal {
		t.Errorf("came back as %+v", slices.Collect(back.Records()))
	}
	if _, ok := back.refused["no@x"]; !ok {
		t.Error("refused recipient missing")
	}
	if _, err := ReadJSON(strings.NewReader(`{"id":"1"` + "\n")); err == nil {
		t.Error("half a record read without error")
	}
}

func TestCompareFindsEachFault(t *testing.T) {
	t.Parallel()
	var sent, received Ledger
	add := func(l *Ledger, unanswered bool, id, content string, rcpts ...string) {
		m := msg(id, content, rcpts...)
		m.Unanswered = unanswered
		l.Add(m)
	}
	add(&sent, false, "fine", "c", "a@x", "b@X.example")
	add(&sent, false, "lost", "c", "a@x")
	add(&sent, false, "twice", "c", "a@x")
	add(&sent, false, "altered", "c", "a@x")
	add(&sent, false, "refused", "c", "no@x")
	add(&sent, true, "doubtful", "c", "a@x") // the client saw no reply,
	add(&sent, false, "doubtful", "c", "a@x")
	add(&sent, true, "never", "c", "a@x")
	add(&sent, false, "dropped", "c", "a@x")

	add(&received, false, "fine", "c", "a@x")
	add(&received, false, "fine", "c", "b@x.EXAMPLE")
	add(&received, false, "twice", "c", "a@x")
	add(&received, false, "twice", "c", "a@x")
	add(&received, false, "altered", "d", "a@x")
	add(&received, false, "doubtful", "c", "a@x") // so both may arrive
	add(&received, false, "doubtful", "c", "a@x")
	add(&received, true, "dropped", "c", "a@x") // the receiver gave no reply,
	add(&received, false, "dropped", "c", "a@x")
	add(&received, false, "stray", "c", "a@x")
	add(&received, false, "fine", "c", "A@x") // another local part
	received.Refuse([]byte("no@x"))

	r := Compare(&sent, &received)
	check := func(name string, got []Copy, want ...Copy) {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	check("lost", r.Lost, Copy{"lost", "a@x"})
	check("duplicate", r.Duplicate, Copy{"twice", "a@x"})
	check("altered", r.Altered, Copy{"altered", "a@x"})
	check("stray", r.Stray, Copy{"stray", "a@x"}, Copy{"fine", "A@x"})
	check("refused", r.Refused, Copy{"refused", "no@x"})
	if r.Sent != 8 || r.Received != 11 || r.Excused != 2 || r.Clean() {
		t.Errorf("%+v", r)
	}
	const first = "8 sent, 11 received: 1 lost, 1 duplicate, 1 altered, 2 stray; 1 refused for good; 2 received again after an unanswered dot\n"
	if s := r.String(); !strings.HasPrefix(s, first) || !strings.Contains(s, "lost: lost to a@x") {
		t.Errorf("says %s", s)
	}
}

func TestCompareOfSameIsClean(t *testing.T) {
	t.Parallel()
	var l Ledger
	for i := range 1000 {
		l.Add(msg(fmt.Sprint(i), "c", "a@x", "b@x"))
	}
	r := Compare(&l, &l)
	if !r.Clean() || r.Sent != 2000 || r.Received != 2000 || r.Excused != 0 {
		t.Errorf("%s", r)
	}
}

func TestLatenciesAreFromFirstSentToFirstReceived(t *testing.T) {
	t.Parallel()
	var sent, received Ledger
	at := func(l *Ledger, id string, ms int64) {
		m := msg(id, "c", "a@x")
		m.Time = time.UnixMilli(ms)
		l.Add(m)
	}
	at(&sent, "t-1", 1000)
	at(&sent, "t-1", 1500) // offered again
	at(&sent, "t-2", 1000)
	at(&sent, "t-3", 1000)
	at(&sent, "b-1", 1000)
	at(&received, "t-2", 4000)
	at(&received, "t-1", 2000)
	at(&received, "t-1", 9000)
	at(&received, "b-1", 9000)
	got := Latencies(&sent, &received, func(id string) bool { return id[0] == 't' })
	if !slices.Equal(got, []time.Duration{time.Second, 3 * time.Second}) {
		t.Errorf("got %v", got)
	}
}
