package metrics

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func nothingNow() State { return State{} }

// read gathers all series: "name{label=value,...}" -> value; histograms by _count.
func read(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, x := range f.Metric {
			var labels []string
			for _, l := range x.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := strings.TrimPrefix(f.GetName(), "millrace_") + "{" + strings.Join(labels, ",") + "}"
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				all[name] = x.Counter.GetValue()
			case dto.MetricType_HISTOGRAM:
				all[name] = float64(x.Histogram.GetSampleCount())
			default:
				all[name] = x.Gauge.GetValue()
			}
		}
	}
	return all
}

func delivery(n int) *event.Delivery {
	now := time.Now()
	return &event.Delivery{
		Time: now, Envelope: &spool.Envelope{Arrived: now.Add(-time.Minute), Stream: fmt.Sprint("stream ", n), Size: 1000},
		Queue: "general", Site: fmt.Sprintf("mx%d.example", n), Status: event.Sent, Transmit: 20 * time.Millisecond,
	}
}

func TestDeliveriesAreCounted(t *testing.T) {
	t.Parallel()
	m := New("1", nothingNow)
	d := delivery(1)
	m.Delivery(d)
	d.Status, d.Class, d.Code = event.Bounced, outcome.ClassUserUnknown, 550
	m.Delivery(d)
	d.Status, d.Class, d.Code = event.Deferred, outcome.ClassRateLimited, 421
	m.Delivery(d)
	d.Envelope, d.Status, d.Site = nil, "never heard of", ""
	m.Delivery(d)
	m.Connect("general", "mx1.example", d.Time, elastic.Refused)
	m.Connect("general", "mx1.example", d.Time, elastic.Up)
	m.Connect("general", "mx1.example", d.Time, elastic.Failed)
	m.JournalError()
	got := read(t, m)
	for name, want := range map[string]float64{
		"deliveries_total{queue=general,status=sent}":             1,
		"deliveries_total{queue=general,status=other}":            1,
		"deliveries_total{queue=other,status=sent}":               0,
		"sent_bytes_total{queue=general}":                         1000,
		"bounces_total{class=userunknown,queue=general}":          1,
		"deferrals_total{class=ratelimited,queue=general}":        1,
		"site_deliveries_total{site=mx1.example,status=bounced}":  1,
		"site_refusals_total{site=mx1.example}":                   2, // a connect and a transaction
		"stream_bounces_total{class=userunknown,stream=stream 1}": 1,
		"connects_total{queue=general,result=up}":                 1,
		"connects_total{queue=general,result=refused}":            1,
		"connects_total{queue=general,result=failed}":             1,
		"delivery_delay_seconds{queue=general}":                   1,
		"delivery_stage_seconds{stage=connect}":                   0, // the connection was up
		"delivery_stage_seconds{stage=transmit}":                  1,
		"journal_errors_total{}":                                  1,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
}

func TestDelaysFallIntoTheirBuckets(t *testing.T) {
	t.Parallel()
	m := New("1", nothingNow)
	d := delivery(1)
	for _, age := range []time.Duration{0, time.Second, time.Minute, 48 * time.Hour} {
		d.Time = d.Envelope.Arrived.Add(age)
		m.Delivery(d)
	}
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`le="0.05"} 1`, `le="1"} 2`, `le="30"} 2`, `le="60"} 3`, `le="86400"} 3`, `le="+Inf"} 4`} {
		if !strings.Contains(w.Body.String(), `millrace_delivery_delay_seconds_bucket{queue="general",`+want) {
			t.Errorf("no bucket with %s", want)
		}
	}
}

// TestCountersNeverGoBack sends the traffic of streams that come and go through far
// fewer seats, for two days.
func TestCountersNeverGoBack(t *testing.T) {
	t.Parallel()
	r := newRanked[uint64](5)
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	last, sent, seen := map[string]uint64{}, uint64(0), uint64(0)
	everSeated := map[string]bool{}
	for minute := range 2 * 24 * 60 {
		now = now.Add(time.Minute)
		for range 50 {
			// The one that is busiest moves on every four hours.
			name := fmt.Sprint(minute/240 + int(random.ExpFloat64()*3))
			if random.IntN(10) == 0 {
				name = fmt.Sprint("rare ", random.IntN(1000))
			}
			*r.at(name, now)++
			sent++
		}
		r.look(now)
		labels := 0
		r.each(func(label string, c *uint64) {
			labels++
			everSeated[label] = true
			if *c < last[label] {
				t.Fatalf("minute %d: %s went from %d back to %d", minute, label, last[label], *c)
			}
			seen += *c - last[label]
			last[label] = *c
		})
		if labels > 6 || len(r.names) > tracked*5 {
			t.Fatalf("minute %d: %d series, %d names", minute, labels, len(r.names))
		}
	}
	if seen != sent {
		t.Errorf("the series grew by %d, there were %d events", seen, sent)
	}
	for i := range 12 {
		if !everSeated[fmt.Sprint(i)] {
			t.Errorf("stream %d, the busiest for four hours, never had a series", i)
		}
	}
}

func TestNamesThatAreHardToShow(t *testing.T) {
	t.Parallel()
	m := New("1", nothingNow)
	for _, name := range []string{"other", "", "\xff\xfe", `a"b\c`, "new\nline"} {
		d := delivery(1)
		d.Envelope.Stream, d.Queue, d.Site = name, name, name
		m.Delivery(d)
	}
	got := read(t, m) // fails if two series are the same
	if got["stream_deliveries_total{status=sent,stream=other}"] != 1 || got[`stream_deliveries_total{status=sent,stream="\xff\xfe"}`] != 1 {
		t.Errorf("series %v", got)
	}
}

func TestTenThousandDestinationsStayWithinBounds(t *testing.T) {
	t.Parallel()
	const destinations = 10_000
	var sites []queue.Site
	for i := range destinations {
		sites = append(sites, queue.Site{
			Name: fmt.Sprintf("mx1.destination-%d.example, mx2.destination-%d.example", i, i), Queue: fmt.Sprint("queue", i%150),
			Waiting: 3, Sessions: 2, Ready: 1, Target: elastic.Target{Sessions: 4},
		})
	}
	m := New("1", func() State { return State{Sites: sites, MilterAt: time.Now()} })
	for i := range destinations {
		d := delivery(i)
		d.Site, d.Queue = sites[i].Name, sites[i].Queue
		m.Delivery(d)
	}
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if n := w.Body.Len(); w.Code != 200 || n > 5<<20 {
		t.Errorf("status %d, %d octets", w.Code, n)
	} else {
		t.Logf("%d octets", n)
	}
	// Nothing is left out by that.
	sums := map[string]float64{}
	for name, v := range read(t, m) {
		family, labels, _ := strings.Cut(name, "{")
		if !strings.Contains(labels, "status=") || strings.Contains(labels, "status=sent") {
			sums[family] += v
		}
	}
	for family, want := range map[string]float64{
		"deliveries_total": destinations, "site_deliveries_total": destinations, "stream_deliveries_total": destinations,
		"queue_sites": destinations, "queue_waiting_recipients": 3 * destinations, "site_waiting_recipients": 3 * destinations,
		"site_sessions": 2 * destinations, "queue_sessions_target": 4 * destinations,
	} {
		if sums[family] != want {
			t.Errorf("%s sums to %v, want %v", family, sums[family], want)
		}
	}
}

func TestSitesThatAreHeldBackAreCountedByReason(t *testing.T) {
	t.Parallel()
	m := New("1", func() State {
		return State{Sites: []queue.Site{
			{Name: "a", Waiting: 5, HeldBack: queue.HeldBack{Reason: queue.Dead}}, {Name: "b", Waiting: 7, HeldBack: queue.HeldBack{Reason: queue.Dead}},
			{Name: "c", Waiting: 1, HeldBack: queue.HeldBack{Reason: queue.Refused}}, {Name: "d", Waiting: 9},
		}}
	})
	got := read(t, m)
	for name, want := range map[string]float64{
		"sites_held_back{reason=dead}": 2, "held_back_recipients{reason=dead}": 12, "sites_held_back{reason=refused}": 1,
		"sites_held_back{reason=agent_limit}": 0, "held_back_recipients{reason=suspended}": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, ok, want)
		}
	}
}

func TestDeliveryAllocatesNothing(t *testing.T) {
	m := New("1", nothingNow)
	d := delivery(1)
	m.Delivery(d)
	if n := testing.AllocsPerRun(100, func() { m.Delivery(d) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDelivery(b *testing.B) {
	m := New("1", nothingNow)
	var d [64]*event.Delivery
	for i := range d {
		d[i] = delivery(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Delivery(d[i%len(d)])
	}
}
