package queue

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/quotas"
	"github.com/millrace/millrace/agent/spool"
)

// purse is a Budget of so many recipients, with more at a moment.
type purse struct {
	left, added, renewed int
	kept                 int // for recipients that are known
	more                 time.Time
}

func (p *purse) Room(time.Time) (int, time.Time)            { return max(0, p.left), p.more }
func (p *purse) Spared(_ time.Time, n int, known bool) bool { return known || p.left-n >= p.kept }
func (p *purse) Take(_ time.Time, n int) (int, quotas.Taken) {
	n = min(n, max(0, p.left))
	p.left -= n
	return n, quotas.Taken{}
}
func (p *purse) Add(_ time.Time, n int) { p.left -= n; p.added += n }
func (p *purse) Renew(_ time.Time, from quotas.Taken, n int) quotas.Taken {
	p.renewed += n
	return from
}
func (p *purse) Return(_ quotas.Taken, n int) { p.left += n }

// cold has all mail without a choice leave from a cold address, and what has overflowed from
// a warm one.
func (w *world) cold(p *purse, change func(*Warmup)) {
	w.way = func(name string) (Route, bool) {
		domain, from := SplitRouteName(name)
		rt := w.to(domain)
		rt.Site, rt.Key, rt.From = domain+" cold", domain+" cold", "news cold"
		if from == "news warm" {
			rt.Site, rt.Key, rt.From = domain+" warm", domain+" warm", from
			return rt, true
		}
		rt.Warmup = &Warmup{Key: "cold", Addresses: []string{"192.0.2.2"}, Budgets: []Budget{p}, Elsewhere: func(string, spool.ID, uint32) string { return "news warm" }}
		if change != nil {
			change(rt.Warmup)
		}
		return rt, true
	}
}

// leftFrom counts recipients by what their last job left from.
func (w *world) leftFrom() map[string]int {
	all := make(map[string]int)
	for _, job := range w.transactions() {
		all[job.From] += len(job.Items)
	}
	return all
}

// What has no room leaves from elsewhere at once; a message to one domain stays together, also
// where there is room for a part of it.
func TestMessageWithoutRoomLeavesAsAWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := &purse{left: 25, more: time.Now().Add(24 * time.Hour)}
		w.cold(p, nil)
		for i := range 10 {
			to := make([]string, 10)
			for j := range to {
				to[j] = "a.example"
			}
			w.add(spool.ID(i+1), "news", to...)
		}
		pass(time.Minute)
		if all := w.leftFrom(); all[""] != 20 || all["news warm"] != 80 || p.left != 5 || p.added != 0 || p.renewed != 20 {
			t.Errorf("%v, %d of the share are left, %d count on the day of their try", all, p.left, p.renewed)
		}
		for _, job := range w.transactions() {
			if len(job.Items) != 10 {
				t.Errorf("message %d went in a part of %d", job.ID, len(job.Items))
			}
		}
		w.settledGates()
	})
}

// What was taken and not tried goes back to the share: sessions that end, permits that nobody
// used.
func TestUntriedMailGoesBackToTheShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.server = func(w *world, s *Session) {
				began := time.Now()
				time.Sleep(w.service)
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up, Began: began}})
				job, err := w.Step(context.Background(), s, nil, nil)
				if err != nil {
					w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
					return
				}
				var done []Settled
				for i, item := range job.Items { // half was offered when the connection broke
					if i%2 == 0 {
						done = append(done, Settled{Handle: item.Handle, State: spool.State{Status: spool.Delivered}})
					}
				}
				w.Leave(s, done, []elastic.Signal{{Kind: elastic.Lost, Began: began}}, "lost")
			}
		})
		p := &purse{left: 100, more: time.Now().Add(24 * time.Hour)}
		w.cold(p, func(x *Warmup) { x.Elsewhere = nil })
		w.add(1, "news", "a.example", "a.example", "a.example", "a.example")
		pass(10 * time.Minute)
		if p.left != 96 || w.Queued() != 0 {
			t.Errorf("%d of 100 are left after 4 recipients, %d wait", p.left, w.Queued())
		}
		w.set(func() { w.refuse = true; w.server = (*world).serveSession })
		w.add(2, "news", "b.example")
		pass(time.Hour)
		if p.left < 95 {
			t.Errorf("%d of 100 are left where no connect was made", p.left)
		}
	})
}

// What was tried passes without room, and counts no more, behind mail that waits for it.
func TestBegunMailPassesAnEmptyShare(t *testing.T) {
	t.Parallel()
	for _, overflows := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nil)
			p := &purse{more: time.Now().Add(1000 * time.Hour)}
			w.cold(p, func(x *Warmup) {
				if !overflows {
					x.Elsewhere = nil
				}
			})
			e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "u@a.example"}}}
			w.Add(1, e, []string{"a.example"}, []spool.State{{Tries: 1, From: "news cold"}}, false)
			pass(time.Minute)
			if n := len(w.transactions()); n != 1 || p.added != 0 || p.left != 0 {
				t.Errorf("overflow %v: %d transactions; %d were counted", overflows, n, -p.left)
			}
			w.settledGates()
		})
	}
}

// Of a message that is to go to the host what was tried stays.
func TestBegunMailIsNotGivenToTheHost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := &purse{more: time.Now().Add(1000 * time.Hour)}
		w.cold(p, func(x *Warmup) { x.Elsewhere, x.Handback = nil, true })
		e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "a@a.example"}, {Address: "b@a.example"}, {Address: "c@a.example"}}}
		w.Add(1, e, []string{"a.example", "a.example", "a.example"}, []spool.State{{}, {Tries: 1}, {}}, false)
		pass(time.Minute)
		jobs := w.Overflowed()
		if len(jobs) != 1 || len(jobs[0].Items) != 2 || jobs[0].Items[0].Ordinal != 0 || jobs[0].Items[1].Ordinal != 2 {
			t.Fatalf("to the host: %+v", jobs)
		}
		if all := w.transactions(); len(all) != 1 || len(all[0].Items) != 1 || all[0].Items[0].Ordinal != 1 {
			t.Errorf("sent: %+v", all)
		}
	})
}

// A stream with limits of its own passes one gate for both, and neither is exceeded.
func TestStreamsLimitsAndWarmupHoldTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := quotas.Key{Stream: "news"}
		book := counts(t, map[quotas.Key]quotas.Quota{k: {Limit: 30}})
		w := newWorld(t, nil)
		w.SetStreams([]StreamLimits{{Name: "news", Fits: only("news"), Quotas: []*quotas.Counter{book.Counter(k)}}})
		p := &purse{left: 20, more: time.Now().Add(30 * time.Minute)}
		w.cold(p, func(x *Warmup) { x.Elsewhere = nil })
		for i := range 25 {
			w.add(spool.ID(1000+i), "news", fmt.Sprintf("d%d.example", i%3))
		}
		w.add(5000, "other", "d1.example")
		pass(10 * time.Minute)
		if n := len(w.delivered()); n != 20 {
			t.Errorf("%d of 26 left from an address that may send 20", n)
		}
		if n := w.WarmingUp(); n != 6 {
			t.Errorf("%d are told to wait for warm-up", n)
		}
		told := 0
		w.List(func(page []Entry) bool {
			for i := range page {
				if strings.Contains(page[i].Reason, "the warm-up of 192.0.2.2 has no room") {
					told++
				}
			}
			return true
		})
		if told != 6 {
			t.Errorf("%d of 6 say what they wait for", told)
		}
		w.Queue.mu.Lock()
		p.left = 1000
		w.Queue.mu.Unlock()
		pass(25 * time.Minute)
		if n := len(w.delivered()); n != 26 {
			t.Errorf("%d of 26 were sent when there was room", n)
		}
		for i := range 10 {
			w.add(spool.ID(2000+i), "news", "d1.example")
		}
		pass(time.Minute)
		if n := w.of(1) + w.of(2); n != 30 {
			t.Errorf("%d of a stream that may send 30", n)
		}
	})
}

// A reload puts mail that waits behind a gate, or before it.
func TestReloadBringsAndTakesWarmup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		p := &purse{more: time.Now().Add(1000 * time.Hour)}
		w.add(1, "news", "a.example")
		pass(time.Minute)
		w.cold(p, func(x *Warmup) { x.Elsewhere = nil })
		way := w.way
		w.way = func(name string) (Route, bool) {
			rt, ok := way(name)
			rt.Site, rt.Key = "a.example", "a.example" // the destination that is there
			return rt, ok
		}
		w.RerouteAll()
		pass(time.Minute)
		w.add(2, "news", "a.example")
		pass(time.Minute)
		if n := len(w.delivered()); n != 1 {
			t.Errorf("%d were sent, the second without room", n)
		}
		w.List(func(page []Entry) bool {
			for i := range page {
				if page[i].Reason != "the warm-up of 192.0.2.2 has no room" {
					t.Errorf("it waits for %q", page[i].Reason)
				}
			}
			return true
		})
		if list := w.Streams(); len(list) != 1 || list[0].Waits != "the warm-up of 192.0.2.2 has no room" || list[0].Until.IsZero() {
			t.Errorf("the streams: %+v", list)
		}
		w.way = func(name string) (Route, bool) { return w.to("a.example"), true }
		w.RerouteAll()
		pass(time.Minute)
		if n := len(w.delivered()); n != 2 {
			t.Errorf("%d were sent when the address was warm", n)
		}
		w.settledGates()
	})
}

// Of the room where mail overflows a part is kept for messages whose recipients all took mail before; where
// others cannot go elsewhere, or mail waits for room, all are alike.
func TestKnownRecipientsGoFirst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Warmup)
		cold   string // unknown and known recipients that left from the cold address
	}{
		{"overflow", nil, "10 20"},
		{"overflow to the host", func(x *Warmup) { x.Elsewhere, x.Handback = nil, true }, "10 20"},
		{"nowhere to go", func(x *Warmup) { x.Elsewhere = func(string, spool.ID, uint32) string { return "" } }, "20 10"},
		{"wait", func(x *Warmup) { x.Elsewhere = nil }, "20 10"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, func(w *world) {
					w.o.Known = func(e *spool.Envelope) bool { return strings.HasSuffix(e.Recipients[0].Address, "@known.example") }
				})
				p := &purse{left: 30, kept: 20, more: time.Now().Add(24 * time.Hour)}
				w.cold(p, tt.change)
				for _, domain := range []string{"new.example", "known.example"} {
					for i := range 20 {
						w.add(spool.ID(100*len(domain)+i), "news", domain)
					}
					pass(time.Minute)
				}
				known, unknown := 0, 0
				for _, job := range w.transactions() {
					if job.From == "news warm" {
						continue
					}
					if job.Domain == "known.example" {
						known += len(job.Items)
					} else {
						unknown += len(job.Items)
					}
				}
				if got := fmt.Sprint(unknown, known); got != tt.cold {
					t.Errorf("%s left from the cold address, want %s", got, tt.cold)
				}
			})
		})
	}
}
