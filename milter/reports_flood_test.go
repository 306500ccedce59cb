package milter

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/millrace/millrace/milter/classify"
)

func fieldsOf(contentType string) []classify.Field {
	fields := []classify.Field{{Name: "From", Value: " mailer-daemon@remote.example"}, {Name: "Subject", Value: " hello"}}
	for i := range 20 {
		fields = append(fields, classify.Field{Name: fmt.Sprintf("X-Field-%d", i), Value: " something of some length that a header has"})
	}
	return append(fields, classify.Field{Name: "Content-Type", Value: contentType})
}

// Of a flood so many bodies are asked for, and no more; when it is over, reports are read
// again.
func TestFloodOfReportsPassesUnread(t *testing.T) {
	t.Parallel()
	r := newReports(nil, nil, slog.New(slog.DiscardHandler))
	now := time.Unix(1790000000, 0)
	flood := func(n int) (asked int) {
		for range n {
			if g := r.gather(fieldsOf(" multipart/report"), now); g != nil {
				asked++
				g.drop()
			}
		}
		return asked
	}
	if n := flood(10_000); n != reportBurst {
		t.Errorf("%d are asked for at once", n)
	}
	now = now.Add(10 * time.Second)
	if n := flood(10_000); n != 10*reportRate {
		t.Errorf("%d in ten seconds", n)
	}
	now = now.Add(-time.Hour) // the clock was set back
	if n := flood(1); n != 0 {
		t.Error("more after the clock was set back")
	}
	now = now.Add(time.Hour)
	if n := flood(1); n != 1 {
		t.Error("none when the flood is over")
	}
	if n := r.counted()[reportUnread]; n != 20_002-reportBurst-10*reportRate-1 {
		t.Errorf("%d are counted as unread", n)
	}
}

// What is asked for is bounded in octets, too: large reports count as so many of 8 KB, and one
// of any size holds up others for some seconds only.
func TestFloodOfLargeReportsPassesUnread(t *testing.T) {
	t.Parallel()
	r := newReports(nil, nil, slog.New(slog.DiscardHandler))
	now := time.Unix(1790000000, 0)
	chunk := make([]byte, 64<<10)
	flood := func(n, octets int) (asked int) {
		for range n {
			if g := r.gather(fieldsOf(" multipart/report"), now); g != nil {
				asked++
				for left := octets; left > 0; left -= len(chunk) {
					g.write(chunk[:min(left, len(chunk))])
				}
				g.drop()
			}
		}
		return asked
	}
	const large = 256 << 10
	if n := flood(1000, large); n < reportBurst*reportUnit/large || n > reportBurst*reportUnit/large+1 {
		t.Errorf("%d of 256 KB are asked for at once", n)
	}
	now = now.Add(400 / reportRate * time.Second)
	if n := flood(1000, large); n < 11 || n > 13 {
		t.Errorf("%d of 256 KB in the time of 400 of 8 KB", n)
	}
	now = now.Add(time.Hour)
	flood(1, 16<<20)
	if n := flood(1, 1000); n != 0 {
		t.Error("one of 16 MB counts for nothing")
	}
	now = now.Add(reportBurst / reportRate * time.Second)
	if n := flood(1, 1000); n != 0 {
		t.Error("one of 16 MB is paid for in no time")
	}
	now = now.Add(time.Second)
	if n := flood(1, 1000); n != 1 {
		t.Error("one of 16 MB has others unread for longer than that")
	}
}

// BenchmarkLetGo is what all other mail costs.
func BenchmarkLetGo(b *testing.B) {
	r := newReports(nil, nil, slog.New(slog.DiscardHandler))
	for _, t := range []string{" text/plain; charset=utf-8", " multipart/mixed; boundary=x"} {
		fields := fieldsOf(t)
		b.Run(t[1:5], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.gather(fields, time.Time{})
			}
		})
	}
}
