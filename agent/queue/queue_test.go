package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/spool"
)

func TestEverythingQueuedIsSentAndForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		for i := range 500 {
			w.add(spool.ID(i+1), "s", fmt.Sprintf("d%d.example", i%7))
		}
		pass(time.Minute)
		if n := len(w.delivered()); n != 500 {
			t.Fatalf("%d of 500 delivered", n)
		}
		w.Queue.mu.Lock()
		defer w.Queue.mu.Unlock()
		if n := len(w.recipients.spare); n != int(w.recipients.used) {
			t.Errorf("%d of %d recipient records are free", n, w.recipients.used)
		}
		if n := len(w.messages.spare); n != int(w.messages.used) {
			t.Errorf("%d of %d message records are free", n, w.messages.used)
		}
		if len(w.lanes)+len(w.domains)+len(w.streams.index) != 0 {
			t.Errorf("left behind: %d lanes, %d domains, %d streams", len(w.lanes), len(w.domains), len(w.streams.index))
		}
	})
}

func TestWayIsKeptBetweenMessagesUntilItExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.way = func(domain string) (Route, bool) {
				way := w.to(domain)
				way.Expires = time.Now().Add(time.Minute)
				return way, true
			}
		})
		for i := range 10 {
			w.add(spool.ID(i+1), "s", "a.example")
			pass(2 * time.Second)
		}
		if n := w.questions(); n != 1 {
			t.Errorf("asked %d times within the way's life", n)
		}
		pass(2 * time.Minute)
		w.Queue.mu.Lock()
		n := len(w.domains)
		w.Queue.mu.Unlock()
		if n != 0 {
			t.Error("a domain without mail outlives its way")
		}
		w.add(11, "s", "a.example")
		pass(time.Second)
		if len(w.delivered()) != 11 {
			t.Errorf("%d of 11 delivered", len(w.delivered()))
		}
	})
}

func TestOneTransactionTakesOneDomainsRecipientsOfAMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.policy.MaxRecipientsPerMessage = 3
			w.way = func(string) (Route, bool) { return w.to("shared"), true } // both domains have the same hosts
		})
		w.add(1, "s", "a.example", "b.example", "a.example", "a.example", "a.example", "b.example")
		pass(time.Minute)
		var got []string
		for _, j := range w.transactions() {
			s := j.Domain + ":"
			for _, it := range j.Items {
				s += fmt.Sprint(it.Ordinal)
			}
			got = append(got, s)
		}
		slices.Sort(got)
		if want := []string{"a.example:023", "a.example:4", "b.example:15"}; !slices.Equal(got, want) {
			t.Errorf("transactions %v, want %v", got, want)
		}
	})
}

func TestMessageGoesToAReadySession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.add(1, "s", "a.example")
		pass(time.Second)
		before := w.connects()
		w.add(2, "s", "a.example")
		synctest.Wait()
		w.Queue.mu.Lock()
		active := w.active
		w.Queue.mu.Unlock()
		if active != 1 {
			t.Errorf("the message waits beside a ready session")
		}
		pass(time.Second)
		if w.connects() != before {
			t.Errorf("%d sessions opened though one was ready", w.connects()-before)
		}
	})
}

func TestRecipientsOfAMessageStayTogetherWithSessionsReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.add(1, "s", "a.example")
		pass(time.Second)
		w.add(2, "s", "a.example", "a.example", "a.example")
		e := &spool.Envelope{Arrived: time.Now(), Recipients: make([]spool.Recipient, 3)}
		due := spool.State{Due: time.Now().Add(5 * time.Second)}
		w.Add(3, e, []string{"a.example", "a.example", "a.example"}, []spool.State{due, due, due}, false)
		pass(9 * time.Second)
		for _, j := range w.transactions()[1:] {
			if len(j.Items) != 3 {
				t.Errorf("message %d went in a transaction of %d recipients", j.ID, len(j.Items))
			}
		}
		if len(w.transactions()) != 3 {
			t.Errorf("%d transactions", len(w.transactions()))
		}
	})
}

func TestWayOfIdleDomainIsNotAskedForAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.way = func(domain string) (Route, bool) {
				way := w.to(domain)
				way.Expires = time.Now().Add(time.Minute)
				return way, true
			}
		})
		e := &spool.Envelope{Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
		w.Add(1, e, []string{"a.example"}, []spool.State{{Due: time.Now().Add(4 * time.Hour)}}, false)
		pass(5 * time.Hour)
		if n := w.questions(); n != 2 || len(w.delivered()) != 1 {
			t.Errorf("asked %d times, want 2: when it came and when it was due", n)
		}
	})
}

func TestIdleSessionIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.add(1, "s", "a.example")
		pass(5 * time.Second)
		if _, _, _, n := w.Counts(); n == 0 {
			t.Fatal("no session stands ready")
		}
		pass(20 * time.Second)
		if _, _, _, n := w.Counts(); n != 0 {
			t.Errorf("%d sessions are still up", n)
		}
	})
}

func TestHangingConnectHoldsNoMail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, func(w *world) {
			w.server = func(w *world, s *Session) {
				<-release
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Failed, Began: time.Now()}}, "timed out")
			}
		})
		w.add(1, "s", "a.example")
		synctest.Wait()
		waiting, _, active, sessions := w.Counts()
		if waiting != 1 || active != 0 || sessions == 0 {
			t.Errorf("waiting %d, active %d, sessions %d", waiting, active, sessions)
		}
		close(release)
	})
}

func TestDestinationThatIsDownGetsProbes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.refuse = true })
		for i := range 1000 {
			w.add(spool.ID(i+1), "s", "down.example")
		}
		pass(10 * time.Minute)
		probes := w.connects()
		if probes < 3 || probes > 15 {
			t.Errorf("%d connects in ten minutes to a destination that is down", probes)
		}
		w.set(func() { w.refuse = false })
		pass(11 * time.Minute)
		if n := len(w.delivered()); n != 1000 {
			t.Errorf("%d of 1000 delivered after it came back", n)
		}
	})
}

func TestDeferredMailComesDueNotBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		e := &spool.Envelope{Arrived: time.Now(), Recipients: []spool.Recipient{{Address: "a@b.example"}}}
		w.Add(1, e, []string{"b.example"}, []spool.State{{Due: time.Now().Add(5 * time.Minute), Tries: 1}}, false)
		pass(5*time.Minute - time.Second)
		if len(w.delivered()) != 0 {
			t.Error("tried before it was due")
		}
		pass(10 * time.Second)
		if len(w.delivered()) != 1 {
			t.Error("not tried when it was due")
		}
	})
}

func TestWhatWasNotSettledGoesBackToTheHead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first := true
		w := newWorld(t, func(w *world) {
			w.policy.MaxSessions = 1
			serve := w.server
			w.server = func(w *world, s *Session) {
				w.mu.Lock()
				again := !first
				first = false
				w.mu.Unlock()
				if again {
					serve(w, s)
					return
				}
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up}})
				job, err := w.Step(context.Background(), s, nil, nil)
				if err != nil || job.ID != 1 {
					t.Errorf("job %v, %v", job, err)
				}
				w.Leave(s, nil, []elastic.Signal{{Kind: elastic.Closed}}, "")
			}
		})
		for i := range 3 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Minute)
		if got := w.delivered(); !slices.Equal(got, []spool.ID{1, 2, 3}) {
			t.Errorf("sent %v", got)
		}
		if n := w.transactions()[0].Items[0].Tries; n != 0 {
			t.Errorf("a transaction that was never offered counted as %d tries", n)
		}
	})
}

func TestStreamsShareADestination(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.policy.MaxSessions = 1 })
		for i := range 2000 {
			w.add(spool.ID(i+1), "million", "a.example")
		}
		pass(5 * time.Second)
		before := len(w.delivered())
		for i := range 20 {
			w.add(spool.ID(10_001+i), "small", "a.example")
		}
		pass(20 * time.Second)
		after := w.delivered()[before:]
		last := 0
		for i, id := range after {
			if id > 10_000 {
				last = i
			}
		}
		if last == 0 || last > 60 {
			t.Errorf("the small stream's 20 messages were done after %d transactions", last)
		}
	})
}

func TestLanesMoveWithTheirDomain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.refuse = true })
		for i := range 100 {
			w.add(spool.ID(i+1), "s", "a.example")
		}
		pass(time.Minute)
		w.set(func() { w.refuse = false })
		w.Routed("a.example", w.to("elsewhere"))
		pass(time.Minute)
		if n := len(w.delivered()); n != 100 {
			t.Errorf("%d of 100 delivered at the new destination", n)
		}
	})
}

func TestDomainWithoutAWayWaitsAndIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fail := true
		w := newWorld(t, func(w *world) {
			w.way = func(domain string) (Route, bool) {
				w.mu.Lock()
				fails := fail
				w.mu.Unlock()
				if fails {
					w.Unrouted(domain, "SERVFAIL", time.Now().Add(time.Minute))
					return Route{}, false
				}
				return w.to(domain), true
			}
		})
		w.add(1, "s", "a.example")
		pass(30 * time.Second)
		w.List(func(page []Entry) bool {
			if page[0].Reason != "SERVFAIL" || page[0].State != "waiting" {
				t.Errorf("listed as %+v", page[0])
			}
			return true
		})
		w.set(func() { fail = false })
		pass(time.Minute)
		if len(w.delivered()) != 1 {
			t.Error("not delivered once the domain had a way")
		}
	})
}

func TestClaimTakesMailWithoutAWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) { w.way = func(string) (Route, bool) { return Route{}, false } })
		w.add(1, "s", "no.example", "no.example")
		job, ok := w.Claim("no.example", 50)
		if !ok || len(job.Items) != 2 {
			t.Fatalf("claimed %v, %v", job, ok)
		}
		if _, ok := w.Claim("no.example", 50); ok {
			t.Error("claimed twice")
		}
		w.Settle([]Settled{{Handle: job.Items[0].Handle, State: spool.State{Status: spool.Bounced}}, {Handle: job.Items[1].Handle, State: spool.State{Status: spool.Bounced}}})
		if n := w.Queued(); n != 0 {
			t.Errorf("%d still queued", n)
		}
	})
}

func TestHandedBackRecipientMovesToTheRelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(w *world) {
			w.way = func(d string) (Route, bool) { return w.to(d), d == RelayDomain("127.0.0.1:10626") }
		})
		w.add(1, "s", "a.example")
		job, _ := w.Claim("a.example", 1)
		w.Settle([]Settled{{Handle: job.Items[0].Handle, How: ToHost, State: spool.State{Reply: "loops back to us"}}})
		pass(time.Minute)
		if len(w.transactions()) != 1 || w.transactions()[0].Domain != "relay:127.0.0.1:10626" {
			t.Errorf("jobs %v", w.transactions())
		}
	})
}

func TestCloseLetsTransactionsFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.add(1, "s", "a.example")
		pass(150 * time.Millisecond) // in the middle of the transaction
		if err := w.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if n := len(w.delivered()); n != 1 {
			t.Errorf("%d delivered", n)
		}
		if _, _, active, sessions := w.Counts(); active+sessions != 0 {
			t.Errorf("%d active, %d sessions after Close", active, sessions)
		}
	})
}

func TestContextEndsAWaitOnTheReadyList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got error
		w := newWorld(t, func(w *world) {
			w.server = func(w *world, s *Session) {
				w.Opened(s, []elastic.Signal{{Kind: elastic.Up}})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				job, err := w.Step(ctx, s, nil, nil)
				for err == nil {
					job, err = w.Step(ctx, s, []Settled{{Handle: job.Items[0].Handle, State: spool.State{Status: spool.Delivered}}}, nil)
				}
				got = err
				w.Leave(s, nil, nil, "")
			}
		})
		w.add(1, "s", "a.example")
		pass(5 * time.Second)
		if !errors.Is(got, context.DeadlineExceeded) {
			t.Errorf("Step returned %v", got)
		}
	})
}

func TestNamesPastTheLimitShareNumbers(t *testing.T) {
	t.Parallel()
	n := names{limit: 100}
	var held []uint32
	for i := range 10_000 {
		held = append(held, n.ref(fmt.Sprintf("reason %d", i)))
	}
	if len(n.index) > 100+overflow {
		t.Errorf("%d names kept", len(n.index))
	}
	for _, no := range held {
		n.unref(no)
	}
	if len(n.index) != 0 {
		t.Errorf("%d names left after all were dropped", len(n.index))
	}
}

// A pulse is answered while the queue lives, and not while somebody keeps its mutex.
func TestPulseIsAnsweredByAQueueThatLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{Resolve: func(string) {}, Launch: func(*Session) {}, Relay: "relay:x", MaxSessions: 1})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { q.Run(ctx); close(ended) }()
		pulse := func() error {
			limit, done := context.WithTimeout(ctx, time.Second)
			defer done()
			return q.Pulse(limit)
		}
		for range 3 {
			if err := pulse(); err != nil {
				t.Error(err)
			}
		}
		// As a call that hangs with the mutex would: the timers cannot go on.
		stuck := make(hang)
		q.mu.Lock()
		q.schedule(time.Now(), stuck)
		q.mu.Unlock()
		if err := pulse(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("of a queue whose mutex is held: %v", err)
		}
		close(stuck)
		if err := pulse(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		cancel()
		<-ended
	})
}

// hang is something among the timers that does not end.
type hang chan struct{}

func (h hang) fire(*Queue, time.Time) { <-h }
