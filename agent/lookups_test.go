package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// workers look domains up as the resolver does: a silent one takes all the time it is
// given, any other none. They tell when each was answered.
func workers(ctx context.Context, q *lookups, n int, silent func(string) bool, tell func(name string, k lookupKind)) {
	for range n {
		go func() {
			for {
				name, k, ok := q.get()
				if !ok {
					return
				}
				switch {
				case !silent(name):
					q.answered(name)
					tell(name, k)
				case k == quick:
					sleep(ctx, firstLookup)
					q.again(name, slow)
				default:
					sleep(ctx, 20*time.Second) // two rounds of two name servers
					retry := q.failed(name, k, time.Now(), leastRetry, longestRetry)
					time.AfterFunc(time.Until(retry), func() { q.put(name) })
				}
				q.done(k)
			}
		}()
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestTwentyThousandSilentDomainsHoldUpNoHealthyOne has a new domain that is well, again and
// again, while all those are asked for the first time, and for days after.
func TestTwentyThousandSilentDomainsHoldUpNoHealthyOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer end()
		q := newLookups(lookupsAtOnce)
		defer q.close()
		var mu sync.Mutex
		answered := make(map[string]time.Time)
		workers(ctx, q, lookupsAtOnce, func(name string) bool { return strings.HasPrefix(name, "silent") }, func(name string, _ lookupKind) {
			mu.Lock()
			defer mu.Unlock()
			answered[name] = time.Now()
		})
		for i := range 20_000 {
			q.put(fmt.Sprint("silent", i))
		}
		for i := range 200 {
			name := fmt.Sprint("well", i)
			asked := time.Now()
			q.put(name)
			time.Sleep(time.Duration(3+i) * time.Second)
			mu.Lock()
			if at, ok := answered[name]; !ok || at.Sub(asked) > 2*time.Second {
				t.Errorf("domain %d, asked for after the silent ones: answered %v, after %v", i, ok, at.Sub(asked))
			}
			mu.Unlock()
		}
	})
}

// Domains that were silent are asked less and less often, and as slow ones, until they
// answer.
func TestSilentDomainsAreAskedLessAndLess(t *testing.T) {
	t.Parallel()
	q := newLookups(8)
	now := time.Unix(1_800_000_000, 0)
	var waits []time.Duration
	for range 8 {
		at := q.failed("silent", slow, now, leastRetry, longestRetry)
		waits = append(waits, at.Sub(now))
		now = at
	}
	want := []time.Duration{30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, longestRetry, longestRetry}
	if !slices.Equal(waits, want) {
		t.Errorf("%v, want %v", waits, want)
	}
	q.put("silent")
	if _, k, _ := q.get(); k != slow {
		t.Errorf("asked again as one of kind %d", k)
	}
	q.answered("silent")
	q.put("silent")
	if _, k, _ := q.get(); k != quick {
		t.Errorf("after an answer as one of kind %d", k)
	}
	for i := range 100_000 { // each of which has no mail any more soon
		q.failed(fmt.Sprint(i), slow, now.Add(time.Duration(i)*time.Minute), leastRetry, longestRetry)
	}
	if n := len(q.setbacks); n > 5000 {
		t.Errorf("%d are remembered", n)
	}
}

// However many domains are slow, or have a policy to fetch, most workers are for those that
// are asked for anew; and of one worker nobody is shut out.
func TestSlowLookupsLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ workers, part int }{{8, 2}, {3, 1}, {1, 1}} {
		q := newLookups(x.workers)
		for i := range 10 {
			q.again(fmt.Sprint("slow", i), slow)
			q.again(fmt.Sprint("fetch", i), fetching)
		}
		q.put("fresh")
		count := make(map[lookupKind]int)
		for range 2*x.part + 1 {
			_, k, _ := q.get()
			count[k]++
		}
		if count[slow] != x.part || count[fetching] != x.part || count[quick] != 1 {
			t.Errorf("%d workers: %v", x.workers, count)
		}
		q.done(slow)
		if _, k, _ := q.get(); k != slow {
			t.Errorf("%d workers: after a slow one was done, one of kind %d", x.workers, k)
		}
		q.close()
		if _, _, ok := q.get(); ok {
			t.Errorf("%d workers: got a domain after the end", x.workers)
		}
	}
}

// TestReloadWhileADomainIsLookedUp changes the route while the name server thinks: its answer
// is one to a question that nobody asks any more.
func TestReloadWhileADomainIsLookedUp(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(asked) })
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		first()
		<-answer
		r := new(dns.Msg)
		r.SetReply(m)
		switch m.Question[0].Qtype {
		case dns.TypeMX:
			r.Answer = append(r.Answer, &dns.MX{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeMX, Class: dns.ClassINET, Ttl: 3600}, Mx: "mx.slow.test."})
		case dns.TypeA:
			r.Answer = append(r.Answer, &dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: net.IPv4(127, 0, 0, 9)})
		}
		_ = w.WriteMsg(r)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-served })
	s := newStage(t, func(c *config.Config) { c.Agent.Resolvers = []string{pc.LocalAddr().String()} }, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@slow.test")
	<-asked
	next := *s.config
	next.General.Route = config.Route{Kind: config.RouteRelay, Relay: "127.0.0.1:9"}
	if err := s.agent.Reload(&next); err != nil {
		t.Fatal(err)
	}
	close(answer)
	s.until("its mail goes by the new route", func() bool {
		for _, site := range s.agent.queue.Sites() {
			if site.Name == "relay:127.0.0.1:9" && site.Waiting > 0 {
				return true
			}
		}
		return false
	})
}
