package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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

// TestReloadWhileADomainIsLookedUp changes the route, the TLS level and the source while the
// name server thinks: its answer is one to a question that nobody asks any more.
func TestReloadWhileADomainIsLookedUp(t *testing.T) {
	t.Parallel()
	source := netip.MustParseAddr("127.77.0.9")
	for name, x := range map[string]struct {
		change   func(s *stage, next *config.Config)
		provider string // that gets the mail
		fits     func(accepted) bool
	}{
		"route": {func(s *stage, next *config.Config) {
			next.General.Route = config.Route{Kind: config.RouteRelay, Relay: fmt.Sprintf("%s:%d", relay, s.net.Port())}
		}, "host", func(accepted) bool { return true }},
		"TLS level": {func(_ *stage, next *config.Config) { next.General.TLS = config.TLSRequired },
			"far", func(a accepted) bool { return a.tls }},
		"source": {func(_ *stage, next *config.Config) { next.Agent.SourceAddresses = []netip.Addr{source} },
			"far", func(a accepted) bool { return a.client == source }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			names := newSlowServer(t)
			s := newStage(t, func(c *config.Config) {
				c.Agent.Resolvers, c.General.TLS = []string{names.addr}, config.TLSNone
			}, far(sink.Behaviour{StartTLS: true}))
			names.upstream = s.net.DNSAddr()
			s.start()
			s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@far.test")
			<-names.asked
			next := *s.config
			x.change(s, &next)
			if err := s.agent.Reload(&next); err != nil {
				t.Fatal(err)
			}
			close(names.answer)
			s.until("delivered", func() bool { return len(s.at("far"))+len(s.at("host")) == 1 })
			for _, a := range append(s.at("far"), s.at("host")...) {
				if a.provider != x.provider || !x.fits(a) {
					t.Errorf("as before the reload: to %s, from %v, TLS %v", a.provider, a.client, a.tls)
				}
			}
		})
	}
}

// slowServer is a name server that passes questions on once it may.
type slowServer struct {
	addr, upstream string
	asked, answer  chan struct{} // closed by the first question, and by the test
}

func newSlowServer(t *testing.T) *slowServer {
	t.Helper()
	x := &slowServer{asked: make(chan struct{}), answer: make(chan struct{})}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x.addr = pc.LocalAddr().String()
	first := sync.OnceFunc(func() { close(x.asked) })
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		first()
		select {
		case <-x.answer:
		case <-t.Context().Done():
			return
		}
		if r, err := dns.Exchange(m, x.upstream); err == nil {
			_ = w.WriteMsg(r)
		}
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-served })
	return x
}
