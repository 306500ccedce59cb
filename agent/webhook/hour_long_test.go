//go:build long

package webhook

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
)

// TestTroubleOverSocketsLosesNothing has 2,000 events a second go to a receiver at a socket that
// is killed, slow, at fault and well again, half a minute each, and then catches up. What is in use
// of the heap does not grow with what waits.
func TestTroubleOverSocketsLosesNothing(t *testing.T) {
	const phase = 30 * time.Second
	x := &receiver{key: testSecret}
	refuse := func(body []byte) bool { return strings.Contains(string(body), `"bad@far.test"`) }
	well := func(_ *http.Request, body []byte) int {
		if refuse(body) {
			return http.StatusBadRequest
		}
		return http.StatusOK
	}
	x.do = well
	listen := func(at string) (*http.Server, net.Listener) {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: x}
		go s.Serve(l)
		return s, l
	}
	server, l := listen("127.0.0.1:0")
	at := l.Addr().String()
	r := newRig(t, Options{})
	r.start(crm("http://" + at + "/"))
	var made, on atomic.Int64
	on.Store(1)
	load := make(chan []string)
	go func() {
		var want []string
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; on.Load() == 1; {
			<-tick.C
			for range 10 {
				who := fmt.Sprintf("r%d@far.test", i)
				if i == 20000 {
					who = "bad@far.test"
				} else {
					want = append(want, who)
				}
				r.s.Delivery(delivery(i, "s"+strconv.Itoa(i%4), who, event.Sent))
				i++
			}
			made.Store(int64(i))
		}
		load <- want
	}()
	// What the test itself keeps grows with the events; it is counted apart.
	mine := func() int64 { x.mu.Lock(); defer x.mu.Unlock(); return int64(len(x.order)) + made.Load() }
	heap := func(what string) int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		st := r.s.Status()[0]
		t.Logf("%-8s %8d made, %8d taken, %8d wait, heap %.1f MiB, %d requests", what, made.Load(), st.Taken, st.Waiting, float64(m.HeapAlloc)/(1<<20), x.requests)
		return int64(m.HeapAlloc)
	}
	time.Sleep(phase)
	before, kept := heap("well"), mine()
	for _, p := range []struct {
		name string
		do   func(*http.Request, []byte) int
	}{
		{"killed", nil},
		{"slow", func(r *http.Request, b []byte) int { time.Sleep(3 * time.Second); return well(r, b) }},
		{"500", func(*http.Request, []byte) int { return http.StatusInternalServerError }},
	} {
		if p.do == nil {
			server.Close()
			time.Sleep(phase)
		} else {
			x.set(p.do)
			if p.name == "slow" {
				server, _ = listen(at)
			}
			time.Sleep(phase)
		}
		// An event that the test remembers, twice, takes some 250 octets.
		if grown := heap(p.name) - before - 400*(mine()-kept); grown > 16<<20 {
			t.Errorf("%s: the heap has grown by %d octets", p.name, grown)
		}
	}
	x.set(well)
	on.Store(0)
	want := <-load
	r.until("all taken", func() bool { st := r.s.Status()[0]; return st.Waiting == 0 })
	heap("end")
	st := r.s.Status()[0]
	if !slices.Equal(x.order, want) || len(st.Aside) != 1 || st.Lost != 0 || len(x.wrong) > 0 {
		t.Errorf("%d of %d events, %d wrong, %+v", len(x.order), len(want), len(x.wrong), st)
	}
	r.stop()
	server.Close()
}

// BenchmarkDelivery is what an event costs the session that tells it.
func BenchmarkDelivery(b *testing.B) {
	unwanted := crm("http://127.0.0.1:1/")
	unwanted.Events = []string{"bounced"}
	for name, hooks := range map[string][]config.Webhook{"none": nil, "unwanted": {unwanted}, "wanted": {crm("http://127.0.0.1:1/")}} {
		b.Run(name, func(b *testing.B) {
			s := New(Options{StateDirectory: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
			s.Use(Policy{Hooks: hooks})
			defer s.Close()
			d := delivery(1, "news", "a@far.test", event.Sent)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.Delivery(d)
				if l := s.events.Load(); l != nil && i%10_000 == 0 { // or memory is full, which costs nothing
					b.StopTimer()
					if err := l.Flush(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
		})
	}
}
