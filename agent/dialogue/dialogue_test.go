package dialogue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/smtp"
	"github.com/millrace/millrace/agent/spool"
)

func begin(t *testing.T, b *Board, q control.WatchQuestion) *Watcher {
	t.Helper()
	w, err := b.Watch(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func say(s *Session, lines ...string) {
	for _, l := range lines {
		from := smtp.Server
		if l[0] == 'C' {
			from = smtp.Client
		}
		s.Trace(smtp.TraceEvent{Time: time.Unix(1, 0), From: from, Line: l[2:]})
	}
}

// now is what a watcher has to read, without waiting.
func now(t *testing.T, w *Watcher) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lines, err := w.Next(ctx)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.From + " " + l.Text + "\n")
	}
	return b.String()
}

var ann = []smtp.Rcpt{{Address: "ann@far.test"}}

// A reader that stops misses lines, which are counted in their place; it costs no more memory,
// and the others miss nothing.
func TestSlowReaderIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	var b Board
	slow, quick := begin(t, &b, control.WatchQuestion{Site: "far"}), begin(t, &b, control.WatchQuestion{Site: "far"})
	s := b.Session("far")
	got := 0
	for i := range 10_000 {
		say(s, fmt.Sprintf("C NOOP %d", i))
		got += strings.Count(now(t, quick), "NOOP")
	}
	if got != 10_000 {
		t.Errorf("the other one got %d", got)
	}
	text := now(t, slow)
	if n := strings.Count(text, "NOOP"); n != maxLines-1 || !strings.HasSuffix(text, fmt.Sprintf("NOOP %d\n- %d lines are left out here: they were not read fast enough\n", n-1, 10_000-n)) {
		t.Errorf("%d lines, and at the end %q", n, text[max(0, len(text)-200):])
	}
	say(s, "C QUIT")
	if got := now(t, slow); got != "C QUIT\n" {
		t.Errorf("then %q", got)
	}
}

// A session that was up already is shown from now on, and what was said while nobody watched
// is not taken for what follows.
func TestWatchThatBeginsLate(t *testing.T) {
	t.Parallel()
	var b Board
	s := b.Session("far")
	s.With("mx.far.test")
	failed := begin(t, &b, control.WatchQuestion{Failed: true})
	s.Begin(1<<32|1, &spool.Envelope{}, ann)
	say(s, "C MAIL", "S 550 no")
	failed.Close()
	if b.Watched() {
		t.Error("watched by nobody")
	}
	s.End(nil)
	failed = begin(t, &b, control.WatchQuestion{Failed: true})
	site := begin(t, &b, control.WatchQuestion{Site: "far"})
	s.Begin(1<<32|2, &spool.Envelope{}, ann)
	say(s, "C MAIL", "S 250 ok")
	s.End(nil)
	s.Close(nil)
	if got := now(t, failed); got != "" {
		t.Errorf("shown as refused: %q", got)
	}
	got := now(t, site)
	if !strings.HasPrefix(got, "- session of site far with mx.far.test, up since ") || !strings.Contains(got, "transactions before: 1\n- message M1-2\nC MAIL\nS 250 ok\n- closed\n") {
		t.Errorf("%q", got)
	}
}

// What was kept for one who watched is not shown to who watches after that, though nothing was
// said in between: somebody else's watch says nothing of what this one has missed.
func TestNextWatcherIsShownNothingEarlier(t *testing.T) {
	t.Parallel()
	var b Board
	s := b.Session("far")
	first := begin(t, &b, control.WatchQuestion{Failed: true})
	s.Begin(1<<32|1, &spool.Envelope{}, ann)
	say(s, "C MAIL", "S 550 no")
	first.Close()
	next := begin(t, &b, control.WatchQuestion{Failed: true})
	s.End(nil)
	if got := now(t, next); got != "" {
		t.Errorf("%q", got)
	}
}

// A transaction in which the connection breaks has failed, though nothing was refused in it.
func TestBrokenConnectionIsAFailure(t *testing.T) {
	t.Parallel()
	var b Board
	whose := begin(t, &b, control.WatchQuestion{Recipient: "ANN@far.test", Failed: true, First: 1})
	all := begin(t, &b, control.WatchQuestion{Failed: true})
	other := begin(t, &b, control.WatchQuestion{Recipient: "bob@far.test", Failed: true})
	elsewhere, failedElsewhere := begin(t, &b, control.WatchQuestion{Site: "other"}), begin(t, &b, control.WatchQuestion{Site: "other", Failed: true})
	s := b.Session("far")
	say(s, "S 220 hello")
	for range 2 {
		s.Begin(1<<32|1, &spool.Envelope{}, ann)
		say(s, "C MAIL", "S 250 ok")
		s.End(nil)
	}
	s.Begin(1<<32|2, &spool.Envelope{QueueID: "4Q", Stream: "news"}, ann)
	say(s, "C MAIL")
	s.End(io.EOF)
	s.Close(io.EOF)
	const shown = "- session of site far\nS 220 hello\n- message M1-2, 4Q of the host, stream news\nC MAIL\n- broken off: EOF\n"
	if got := now(t, whose); got != shown {
		t.Errorf("for a recipient: %q", got)
	}
	if got := now(t, all); got != shown+"- closed: EOF\n" {
		t.Errorf("for all: %q", got)
	}
	if got := now(t, other) + now(t, elsewhere) + now(t, failedElsewhere); got != "" {
		t.Errorf("for another one, and of another site: %q", got)
	}
}

// So many dialogues are shown and no more, and then the watch is over.
func TestFirstOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var b Board
		for _, q := range []control.WatchQuestion{{Site: "far", First: 2}, {Recipient: "ann@far.test", First: 2}, {Failed: true, First: 2}} {
			w := begin(t, &b, q)
			for range 3 {
				s := b.Session("far")
				say(s, "S 220 hello")
				s.Begin(1<<32|1, &spool.Envelope{}, ann)
				say(s, "C MAIL", "S 450 later")
				s.End(nil)
				s.Close(nil)
			}
			var all []control.WatchLine
			for {
				lines, err := w.Next(t.Context())
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, lines...)
			}
			refusals, openings := 0, 0
			for _, l := range all {
				if l.Text == "450 later" {
					refusals++
				}
				if l.Text == "220 hello" {
					openings++
				}
			}
			if refusals != 2 || openings != 2 {
				t.Errorf("%+v: %v", q, all)
			}
			w.Close()
		}
	})
}

// Of a transaction that is too long to be kept the middle is left out, and counted.
func TestLongTransactionIsBounded(t *testing.T) {
	t.Parallel()
	var b Board
	w := begin(t, &b, control.WatchQuestion{Failed: true})
	s := b.Session("far")
	s.Begin(1<<32|1, &spool.Envelope{}, ann)
	for i := range 5000 {
		say(s, fmt.Sprintf("C RCPT TO:<%d@far.test>", i))
	}
	if n := s.piece.inHead + s.piece.inTail; n > maxHead+maxTail {
		t.Errorf("%d octets are kept", n)
	}
	say(s, "S 550 none of them")
	s.End(nil)
	got := now(t, w)
	shown := strings.Count(got, "RCPT")
	if !strings.Contains(got, "RCPT TO:<0@") || !strings.Contains(got, "RCPT TO:<4999@") || !strings.HasSuffix(got, "S 550 none of them\n") ||
		!strings.Contains(got, fmt.Sprintf("- %d lines are left out here", 5000-shown)) {
		t.Errorf("%d shown: %s", shown, got)
	}
}

func TestFewWatch(t *testing.T) {
	t.Parallel()
	var b Board
	for range MaxWatchers {
		begin(t, &b, control.WatchQuestion{Failed: true})
	}
	if _, err := b.Watch(control.WatchQuestion{Failed: true}); !errors.Is(err, ErrTooMany) {
		t.Errorf("%v", err)
	}
}

// What a line costs while nobody watches.
func BenchmarkUnwatched(b *testing.B) {
	var board Board
	s := board.Session("far")
	for b.Loop() {
		if s.Traced() {
			b.Fatal("watched")
		}
	}
}
