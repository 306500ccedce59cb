package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet/lease"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

// BenchmarkRenewal is what one renewal costs a node whose queue has 10,000 shared sites with mail,
// by how many of them want more than their floors, and the store, which is a real one. Two
// other nodes want all of the same limits. At one renewal in five seconds 50 ms are 1% of a core.
func BenchmarkRenewal(b *testing.B) {
	const sites = 10_000
	for _, above := range []int{0, sites / 10, sites} {
		b.Run(fmt.Sprintf("%d-of-%d", above, sites), func(b *testing.B) { benchmarkRenewal(b, sites, above) })
	}
}

func benchmarkRenewal(b *testing.B, sites, above int) {
	const nodes, low, high = 10, 9, 1000 // of limit low nobody has a floor, of high it is more than is wanted
	s := startServer(b)
	log := slog.New(slog.DiscardHandler)
	c := config.Fleet{Name: "mail", Node: "a", Nodes: nodes, Stores: []config.FleetStore{{Address: s.address}}}
	f, err := Open(Options{Config: c, Directory: b.TempDir(), Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer f.own.close()
	q := queueOf(b, f, sites, func(i int) int {
		if i < above {
			return low
		}
		return high
	})
	w := workOf(q)

	var demand []lease.Demand
	for i := range above {
		demand = append(demand, lease.Demand{Key: siteKey(i), Limit: low, Want: low})
	}
	var others []*Fleet
	for _, name := range []string{"b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		o := c
		o.Node = name
		other, err := Open(Options{Config: o, Directory: b.TempDir(), Log: log})
		if err != nil {
			b.Fatal(err)
		}
		defer other.own.close()
		others = append(others, other)
	}
	// The fleet begins when all nodes have called; then two others go on.
	call := func(o *Fleet, list []lease.Demand) {
		o.member.Want(list)
		if !o.call(b.Context(), o.member.Call()) {
			b.Fatal(o.Status().Away)
		}
	}
	for range 4 {
		f.renew(b.Context(), w)
		for _, o := range others {
			call(o, nil)
		}
	}
	if st := f.Status(); st.State() != "ok" && st.State() != lease.Recovery {
		b.Fatal(st.State())
	}
	var node, store time.Duration
	octets, n := 0, 0
	question := -s.octets(b) // for that number
	question += s.octets(b)
	for b.Loop() {
		busy, seen := s.processorTime(b), s.octets(b)
		before := processorTime()
		f.renew(b.Context(), w)
		node += processorTime() - before
		octets += s.octets(b) - seen - question
		store += s.processorTime(b) - busy
		n++
		if st := f.Status(); st.Away != nil {
			b.Fatal(st.Away)
		}
		b.StopTimer()
		for _, o := range others[:2] {
			call(o, demand)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(node.Microseconds())/float64(n)/1000, "node-ms/op")
	b.ReportMetric(float64(store.Microseconds())/float64(n)/1000, "store-ms/op")
	b.ReportMetric(float64(octets)/float64(n), "octets/op")
}

func siteKey(i int) string { return fmt.Sprintf("queue/general/receiver%d.example", i) }

// queueOf has mail for so many sites, each of a limit of its own that the fleet's nodes share, and
// sessions that open for ever.
func queueOf(b *testing.B, f *Fleet, sites int, limit func(int) int) *queue.Queue {
	q := queue.New(queue.Options{
		Resolve: func(string) {}, Launch: func(*queue.Session) {}, Relay: queue.RelayDomain("127.0.0.1:10626"),
		MaxSessions: 1 << 20, Lender: f, Shared: func(r *queue.Route) string { return "queue/general/" + r.Site },
	})
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { q.Run(ctx) })
	b.Cleanup(func() {
		stop()
		running.Wait()
	})
	policies := map[int]*config.Queue{}
	for i := range sites {
		n := limit(i)
		if policies[n] == nil {
			policies[n] = &config.Queue{Name: "general", MaxSessions: n, MaxMessagesPerConnection: 100, MaxRecipientsPerMessage: 50}
		}
		name := fmt.Sprintf("receiver%d.example", i)
		e := &spool.Envelope{Stream: "news", Size: 8000, Arrived: time.Now(), Recipients: make([]spool.Recipient, 1)}
		for k := range 3 {
			q.Add(spool.ID(3*i+k+1), e, []string{name}, nil, false)
		}
		q.Routed(name, queue.Route{Queue: policies[n], Site: name, Key: name})
	}
	return q
}

// processorTime is what this process has used, of user and system.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is no other reason than bad arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// processorTime is the same of the server.
func (s *server) processorTime(b *testing.B) time.Duration {
	t := s.info(b, "cpu", "used_cpu_user") + s.info(b, "cpu", "used_cpu_sys")
	return time.Duration(t * float64(time.Second))
}

// octets are those that the server has received and sent.
func (s *server) octets(b *testing.B) int {
	return int(s.info(b, "stats", "total_net_input_bytes") + s.info(b, "stats", "total_net_output_bytes"))
}

func (s *server) info(b *testing.B, section, name string) float64 {
	for line := range strings.Lines(s.do("INFO", section).(string)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			x, err := strconv.ParseFloat(v, 64)
			if err != nil {
				b.Fatal(err)
			}
			return x
		}
	}
	b.Fatalf("INFO %s has no %s", section, name)
	return 0
}
