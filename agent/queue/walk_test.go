package queue

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/slots"
	"github.com/millrace/millrace/agent/spool"
)

// crowded is a queue with so many sites of one destination, each with one message and no
// session; launched are the connects that it has asked for.
func crowded(sites int) (q *Queue, launched *[]*Session) {
	policy := config.Queue{Name: "general", MaxSessions: 20, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
	launched = new([]*Session)
	q = New(Options{
		Resolve: func(string) {}, Launch: func(s *Session) { *launched = append(*launched, s) },
		Relay: RelayDomain("127.0.0.1:10626"), MaxSessions: 2000,
	})
	e := &spool.Envelope{Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
	for i := range sites {
		name := fmt.Sprintf("d%d.example", i)
		q.Add(spool.ID(i+1), e, []string{name}, nil, false)
		addr := netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})
		q.Routed(name, Route{Queue: &policy, Site: name, Key: name, Places: []Place{{Addr: netip.AddrPortFrom(addr, 25)}}})
	}
	return q, launched
}

// Whoever looks at all of something lets go of the mutex after each page, and still sees
// all of it once.
func TestLooksAtAllGoByPages(t *testing.T) {
	t.Parallel()
	const n = 10*pageSize + 7
	q, _ := crowded(n)
	for name, look := range map[string]func(visit func(name string), between func() bool){
		"sites": func(visit func(string), between func() bool) {
			walk(q, &q.siteByNo, func(s *site) { visit(s.key) }, between)
		},
		"destinations": func(visit func(string), between func() bool) {
			walk(q, &q.destByNo, func(d *destination) { visit(d.route.Key) }, between)
		},
		"domains": func(visit func(string), between func() bool) {
			walk(q, &q.domainByNo, func(d *domain) { visit(d.name) }, between)
		},
		"lanes": func(visit func(string), between func() bool) {
			walk(q, &q.laneByNo, func(l *lane) { visit(l.domain.domain()) }, between)
		},
		"addresses": func(visit func(string), between func() bool) {
			each(q, q.table.All(), func(k slots.Key, _ *slots.Address) { visit(k.Host.String()) }, between)
		},
		"the listing": func(visit func(string), between func() bool) {
			q.EachSite(func(page []Site) bool {
				for _, s := range page {
					visit(s.Name)
				}
				return between()
			})
		},
	} {
		seen, page, most := make(map[string]int), 0, 0
		look(func(name string) {
			seen[name]++
			page++
		}, func() bool {
			if !q.mu.TryLock() {
				t.Fatalf("%s: the mutex is held between two pages", name)
			}
			q.mu.Unlock()
			most, page = max(most, page), 0
			return true
		})
		if most > pageSize || len(seen) != n || slices.Max(slices.Collect(values(seen))) != 1 {
			t.Errorf("%s: pages of up to %d, %d of %d seen", name, most, len(seen), n)
		}
	}
}

func values(m map[string]int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for _, n := range m {
			if !yield(n) {
				return
			}
		}
	}
}

// What comes and goes while a look goes on does not hide what stays.
func TestLookSeesWhatStays(t *testing.T) {
	t.Parallel()
	const n = 4 * pageSize
	q, launched := crowded(n)
	if len(*launched) == 0 {
		t.Fatal("no connect is under way")
	}
	seen := make(map[string]int)
	pages := 0
	q.EachSite(func(page []Site) bool {
		for _, s := range page {
			seen[s.Name]++
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if pages++; pages == 1 { // every other site of two pages goes, one that was seen and one that was not
			for _, d := range append(slices.Clone(q.destByNo.chunks[0][2:pageSize:pageSize]), q.destByNo.chunks[0][2*pageSize:3*pageSize]...) {
				if d.no%2 == 0 {
					d.domains, d.live, d.opening = 0, 0, 0
					d.fire(q, time.Now())
				}
			}
		}
		return true
	})
	for i := range n {
		gone := i+1 >= 2*pageSize && i+1 < 3*pageSize && (i+1)%2 == 0
		if got := seen[fmt.Sprintf("d%d.example", i)]; !gone && got != 1 {
			t.Errorf("site %d was seen %d times", i, got)
		} else if gone && got != 0 {
			t.Errorf("site %d was seen after it had gone", i)
		}
	}
}

// BenchmarkLooks has all looked at that 100,000 sites give to look at. longest-ms is how long
// somebody else waited for the mutex meanwhile, which on a busy machine is mostly the time
// until he runs again; page-us is the CPU time of a page on average, and of the listing
// p50-us and p99-us are the times of its pages.
func BenchmarkLooks(b *testing.B) {
	const sites = 100_000
	q, _ := crowded(sites)
	var pages []time.Duration
	listing := func(int) {
		var began time.Time
		q.EachSite(func([]Site) bool {
			if !began.IsZero() { // the first has the destinations before it
				pages = append(pages, time.Since(began))
			}
			began = time.Now()
			return true
		})
	}
	for _, x := range []struct {
		name  string
		walks int // through all sites
		look  func(i int)
	}{
		{"nothing", 0, func(int) { time.Sleep(50 * time.Millisecond) }},
		{"EachSite", 2, listing},
		{"Sites", 2, func(int) { q.Sites() }},
		{"Explain", 1, func(int) { q.Explain("d99999.example") }},
		{"AtHost", 1, func(int) { q.AtHost() }},
		{"SetLimits", 1, func(i int) { q.SetLimits([]Limit{{Name: "general", Sessions: 10 + i%2}}) }},
		{"SetPauses", 1, func(i int) { q.SetPauses([]Pause{{Stream: fmt.Sprint("s", i)}}) }},
		{"Learned", 2, func(int) { q.Learned(time.Now()) }},
		{"Overdue", 1, func(int) { q.Overdue(func(string) *config.Queue { return nil }, nil) }},
		{"Reload", 1, func(int) { q.Reload(2000) }},
		{"Forget", 3, func(int) { q.Forget("") }},
	} {
		b.Run(x.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var most time.Duration
			stop := make(chan struct{})
			var other sync.WaitGroup
			other.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					began := time.Now()
					q.Waiting("d7.example")
					most = max(most, time.Since(began))
					time.Sleep(20 * time.Microsecond)
				}
			})
			pages = pages[:0]
			began := threadTime(b)
			for i := range b.N {
				x.look(i)
			}
			took := threadTime(b) - began
			close(stop)
			other.Wait()
			b.ReportMetric(most.Seconds()*1e3, "longest-ms")
			if x.walks > 0 {
				b.ReportMetric(took.Seconds()*1e6/float64(b.N*x.walks*sites/pageSize), "page-us")
			}
			if slices.Sort(pages); len(pages) > 0 {
				b.ReportMetric(pages[len(pages)/2].Seconds()*1e6, "p50-us")
				b.ReportMetric(pages[len(pages)*99/100].Seconds()*1e6, "p99-us")
			}
		})
	}
}

// threadTime is the CPU time that this thread has used.
func threadTime(b *testing.B) time.Duration {
	const thread = 1 // RUSAGE_THREAD, getrusage(2)
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
