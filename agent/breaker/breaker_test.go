package breaker

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/spool"
)

var (
	noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	bars = Bars{HardBounces: 0.05, Complaints: 0.003}
)

// bench is a Breaker whose holds are kept here.
type bench struct {
	*Breaker
	held  []Held
	mails []string
	fail  error // of Post
	log   strings.Builder
}

func newBench(path string, now time.Time) *bench {
	x := &bench{}
	x.Breaker = New(Options{
		Log: slog.New(slog.NewTextHandler(&x.log, nil)), Path: path,
		Hold: func(stream, provider, reason string) bool {
			x.held = append(x.held, Held{Stream: stream, Provider: provider, Reason: reason})
			return true
		},
		Post: func(e *spool.Envelope, content []byte) error {
			if x.fail == nil {
				x.mails = append(x.mails, string(content))
			}
			return x.fail
		},
	}, now)
	x.Use(Policy{Bars: bars, Notify: "postmaster", Hostname: "out.example.com"})
	return x
}

func (x *bench) holds(stream, provider string) bool {
	for _, h := range x.held {
		if h.Stream == stream && h.Provider == provider {
			return true
		}
	}
	return false
}

func delivery(stream, provider string, s event.Status, at time.Time) *event.Delivery {
	d := &event.Delivery{Time: at, Queue: provider, Status: s, Envelope: &spool.Envelope{Origin: spool.Diverted, Stream: stream, Arrived: noon}}
	switch s {
	case event.Bounced:
		d.Hard = true
	case event.LateBounce:
		d.Hard, d.Arrived, d.Envelope.Arrived = true, noon.Truncate(24*time.Hour), time.Time{}
	case event.Complaint:
		d.Arrived, d.Envelope.Arrived = noon.Truncate(24*time.Hour), time.Time{}
	}
	return d
}

// accept counts n recipients that accepted, as so many deliveries do.
func (x *bench) accept(stream, provider string, n int) {
	if n == 0 {
		return
	}
	x.Delivery(delivery(stream, provider, event.Sent, noon))
	x.mu.Lock()
	defer x.mu.Unlock()
	x.runs[Key{stream, provider, dayOf(noon)}].Recipients += n - 1
}

// fails counts recipients as they are sent, until the next one that fails, by bouncing or by a
// complaint.
func (x *bench) fails(stream, provider string, s event.Status, rate float64, r *rand.Rand) (n int) {
	n = 1 + int(math.Log(1-r.Float64())/math.Log1p(-rate))
	good := n - 1
	if s == event.Complaint {
		good = n // that one was accepted, too
	}
	x.accept(stream, provider, good)
	x.Delivery(delivery(stream, provider, s, noon))
	return n
}

// enough is how many recipients a test needs that is made for a rate and asked once, after
// so many, to be wrong at the bar no more often than ours, and to find the rate in 999 of 1,000
// (by the normal approximation; the two quantiles are of alpha and of 0.001).
func enough(bar, rate float64) int {
	x := (3.891*math.Sqrt(bar*(1-bar)) + 3.090*math.Sqrt(rate*(1-rate))) / (rate - bar)
	return int(x * x)
}

// Of a thousand campaigns each has a stream at three times the bar at one provider. It is held
// there before a fiftieth of it was sent beyond what the confidence needs: the number that is
// enough for a test of a fixed one, or where luck would have it that Wald's test needs more,
// which knows the rate and is the shortest on average, then that. On average it is held before
// a 300th was sent beyond what Wald's needs. The same stream elsewhere, and another stream there, are at
// the bar at most, and are not touched.
func TestThousandCampaigns(t *testing.T) {
	t.Parallel()
	const campaigns, size, healthy = 1000, 50_000, 10_000
	wrong, worst, late, beyond, needed := 0, 0, 0, 0, 0
	for seed := range campaigns {
		r := rand.New(rand.NewPCG(25, uint64(seed)))
		x := newBench("", noon)
		kind, bar := event.Bounced, bars.HardBounces
		if seed%2 == 1 {
			kind, bar = event.Complaint, bars.Complaints
		}
		sent, failed, best := 0, 0, 0
		for !x.holds("ill", "far") {
			sent += x.fails("ill", "far", kind, 3*bar, r)
			failed++
			if best == 0 && ratio(sent, failed, bar, 3*bar) >= math.Log(1/alpha) {
				best = sent
			}
			if sent > size {
				t.Fatalf("campaign %d: not held", seed)
			}
			x.runs[Key{"ill", "far", dayOf(noon)}].asked = time.Time{}
		}
		if best == 0 { // it was held before that
			best = sent
		}
		worst, needed, beyond = max(worst, sent-max(best, enough(bar, 3*bar))), needed+best, beyond+sent-best
		if sent-best > size/50 {
			late++
		}
		for _, well := range [...][2]string{{"ill", "near"}, {"well", "far"}} {
			for _, s := range [...]struct {
				event.Status
				bar float64
			}{{event.Bounced, bars.HardBounces}, {event.Complaint, bars.Complaints}} {
				rate := s.bar * r.Float64()
				if seed%4 == 0 {
					rate = s.bar // as bad as it may be
				}
				for sent := 0; sent < healthy && rate > 0; {
					sent += x.fails(well[0], well[1], s.Status, rate, r)
				}
			}
			if x.holds(well[0], well[1]) {
				wrong++
			}
		}
	}
	t.Logf("%d of %d healthy ones were held; Wald's test needed %d recipients on average, ours %d more, and in %d campaigns more than %d more; the last was held %d after what the confidence needs",
		wrong, 2*campaigns, needed/campaigns, beyond/campaigns, late, size/50, worst)
	if wrong > campaigns/1000 {
		t.Errorf("%d healthy ones are held", wrong)
	}
	if worst > size/50 || beyond/campaigns > size/300 {
		t.Errorf("%d recipients were sent beyond what it takes", worst)
	}
}

// A test for a fixed number, asked after each failure, holds what is healthy: why this one is
// sequential. Asked as often, it keeps its promise at the bar itself.
func TestConfidenceHoldsOverAllLooks(t *testing.T) {
	t.Parallel()
	fixed, sequential := 0, 0
	for seed := range 1000 {
		r := rand.New(rand.NewPCG(7, uint64(seed)))
		n, s, once, ever := 0, 0, false, false
		for n < 20_000 {
			n += 1 + int(math.Log(1-r.Float64())/math.Log1p(-0.05))
			s++
			z := (float64(s) - 0.05*float64(n)) / math.Sqrt(0.05*0.95*float64(n))
			once = once || z > 3.09 // one of 1,000, if it is asked once
			ever = ever || proven(n, s, 0.05)
		}
		if once {
			fixed++
		}
		if ever {
			sequential++
		}
	}
	t.Logf("of 1,000 at the bar: %d held by a test of a fixed number, %d by ours", fixed, sequential)
	if sequential > 1 || fixed < 10 {
		t.Errorf("%d and %d", sequential, fixed)
	}
}

func TestFewRecipientsProveNothing(t *testing.T) {
	t.Parallel()
	for _, x := range [...]struct {
		n, s int
		want bool
	}{{5, 3, false}, {10, 5, false}, {4, 4, false}, {20, 12, true}, {1000, 60, false}, {10_000, 500, false}, {10_000, 700, true}} {
		if got := proven(x.n, x.s, 0.05); got != x.want {
			t.Errorf("%d of %d: %v", x.s, x.n, got)
		}
	}
	// Whatever is asked, the answer is a number.
	for _, bar := range []float64{0.0001, 0.003, 0.3} {
		for _, n := range []int{1, 10, 10_000_000} {
			for _, s := range []int{0, 1, n, 2 * n} {
				if e := evidence(n, s, bar); math.IsNaN(e) || math.IsInf(e, 1) {
					t.Errorf("%d of %d at %g: %g", s, n, bar, e)
				}
			}
		}
	}
}

func TestWhatCounts(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	soft := delivery("news", "far", event.Bounced, noon)
	soft.Hard = false
	own := delivery("news", "far", event.Bounced, noon)
	own.Envelope.Origin = spool.Report
	nobody := delivery("", "far", event.Bounced, noon)
	doubted := delivery("news", "far", event.Complaint, noon)
	doubted.Uncounted = "others had the same copy"
	old := delivery("news", "far", event.Complaint, noon)
	old.Arrived = noon.AddDate(0, 0, -3)
	unread := delivery("news", "far", event.Bounced, noon)
	unread.Envelope = nil
	x.accept("news", "far", 10)
	for _, d := range []*event.Delivery{
		soft, own, nobody, doubted, old, unread,
		delivery("news", "far", event.Deferred, noon), delivery("news", "far", event.HandedBack, noon), delivery("news", "far", event.Suppressed, noon),
		delivery("news", "far", event.Bounced, noon), delivery("news", "far", event.LateBounce, noon), delivery("news", "far", event.Complaint, noon),
	} {
		x.Delivery(d)
	}
	list := x.List()
	if len(list) != 1 || list[0].Key != (Key{"news", "far", "2026-11-29"}) || list[0].Recipients != 11 || list[0].HardBounces != 2 || list[0].Complaints != 1 {
		t.Errorf("%+v", list)
	}
}

// Yesterday's mail is complained about today: that is yesterday's run, whose size it is held
// against.
func TestComplaintsBelongToTheMailTheyAreAbout(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	x.accept("news", "far", 100_000)
	today := delivery("news", "far", event.Sent, noon.AddDate(0, 0, 1))
	today.Envelope.Arrived = noon.AddDate(0, 0, 1)
	for range 50 {
		x.Delivery(today)
		x.Delivery(delivery("news", "far", event.Complaint, noon.AddDate(0, 0, 1)))
	}
	if len(x.held) > 0 {
		t.Errorf("held: %+v", x.held)
	}
}

func TestWhereNoComplaintEverCameTheReasonSaysSo(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	for range 20 {
		x.Delivery(delivery("news", "google", event.Bounced, noon))
	}
	x.Delivery(delivery("other", "far", event.Complaint, noon))
	for range 20 {
		x.Delivery(delivery("news", "far", event.Bounced, noon))
	}
	if len(x.held) != 2 || !strings.Contains(x.held[0].Reason, unknownComplaints) || strings.Contains(x.held[1].Reason, unknownComplaints) {
		t.Errorf("%+v", x.held)
	}
	if !strings.Contains(x.InWords("google"), unknownComplaints) || x.InWords("far") != "streams are held above 5% hard bounces or 0.3% complaints" {
		t.Errorf("%q, %q", x.InWords("google"), x.InWords("far"))
	}
}

func TestWithoutBarsNothingIsHeld(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	x.Use(Policy{})
	for range 100 {
		x.Delivery(delivery("news", "far", event.Bounced, noon))
	}
	if len(x.held) > 0 || len(x.List()) > 0 || x.InWords("far") != "" {
		t.Errorf("%+v, %+v", x.held, x.List())
	}
}

func TestCountsOutliveARestartAndADamagedFileStopsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	x.accept("news", "far", 1000)
	x.Delivery(delivery("news", "far", event.Complaint, noon))
	x.save(noon, true)
	y := newBench(path, noon)
	if fmt.Sprint(y.List()) != fmt.Sprint(x.List()) || !y.KnowsComplaints("far") {
		t.Errorf("%+v, %+v", x.List(), y.List())
	}
	y.save(noon.AddDate(0, 0, 30), true) // nothing changed
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	z := newBench(path, noon)
	if len(z.List()) > 0 || !strings.Contains(z.log.String(), "is lost") {
		t.Errorf("%+v: %s", z.List(), z.log.String())
	}
}

func TestRunsAreBoundedAndTheLargeOnesStay(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	x.accept("large", "far", 1000)
	for i := range maxRuns + 10 {
		x.Delivery(delivery(fmt.Sprint(i), "far", event.Sent, noon))
	}
	if n := len(x.runs); n > maxRuns || x.runs[Key{"large", "far", dayOf(noon)}] == nil {
		t.Errorf("%d runs", n)
	}
}

// One mail tells of all that was held since the last one, at most once an hour, also over a
// restart; it is from the null sender, says that nobody wrote it, and no name of a stream can
// make a field of it.
func TestAdminIsToldByOneMailAnHour(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	hold := func(x *bench, stream string, at time.Time) {
		for range 20 {
			x.Delivery(delivery(stream, "far", event.Bounced, at))
		}
	}
	hold(x, "news\r\nBcc: <victim@example.com>\r\n\r\n\u202ebody", noon)
	x.fail = errors.New("disk full")
	x.tell(noon)
	x.fail = nil
	x.tell(noon.Add(time.Second))
	if len(x.mails) != 0 {
		t.Fatal("tried again at once")
	}
	x.tell(noon.Add(time.Minute))
	if len(x.mails) != 1 {
		t.Fatalf("%d mails", len(x.mails))
	}
	m, err := mail.ReadMessage(strings.NewReader(x.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("Bcc") != "" || m.Header.Get("To") != "<postmaster>" ||
		strings.ContainsFunc(x.mails[0], func(r rune) bool { return r > 0x7e }) || !strings.Contains(x.mails[0], "hard bounces of") {
		t.Errorf("%s", x.mails[0])
	}
	hold(x, "b", noon.Add(2*time.Minute))
	hold(x, "c", noon.Add(3*time.Minute))
	x.tell(noon.Add(10 * time.Minute))
	if len(x.mails) != 1 {
		t.Error("a second mail within the hour")
	}
	x.tell(noon.Add(62 * time.Minute))
	if len(x.mails) != 2 || !strings.Contains(x.mails[1], "2 streams") {
		t.Errorf("%q", x.mails)
	}
	x.save(noon.Add(62*time.Minute), true)
	y := newBench(path, noon.Add(63*time.Minute))
	hold(y, "d", noon.Add(63*time.Minute))
	y.tell(noon.Add(64 * time.Minute))
	if len(y.mails) != 0 {
		t.Error("a restart began the hour anew")
	}
	y.Use(Policy{Bars: bars})
	y.tell(noon.Add(5 * time.Hour))
	hold(y, "e", noon.Add(5*time.Hour))
	y.tell(noon.Add(6 * time.Hour))
	if len(y.mails) != 0 {
		t.Error("told although notify is empty")
	}
}
