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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
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
	now   time.Time // of what is held
	held  []control.Pause
	mails []string
	fail  error // of Post
	log   strings.Builder
}

func newBench(path string, now time.Time) *bench {
	x := &bench{now: now}
	x.Breaker = New(Options{
		Log: slog.New(slog.NewTextHandler(&x.log, nil)), Path: path,
		Hold: func(stream, provider, reason string) bool {
			if x.holds(stream, provider) {
				return false
			}
			x.held = append(x.held, control.Pause{Filter: control.Filter{Stream: stream, Queue: provider}, Reason: reason, Since: x.now, Who: control.Breaker})
			return true
		},
		Held: func() []control.Pause { return slices.Clone(x.held) },
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
	return slices.ContainsFunc(x.held, func(p control.Pause) bool { return p.Filter == control.Filter{Stream: stream, Queue: provider} })
}

// counted are the runs.
func (x *bench) counted() []Run {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.list()
}

func delivery(stream, provider string, s event.Status, at time.Time) *event.Delivery {
	d := &event.Delivery{Time: at, Queue: provider, Site: provider, Status: s, Envelope: &spool.Envelope{Origin: spool.Diverted, Stream: stream, Arrived: noon}}
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

// A thousand campaigns of a hundred thousand recipients have each a stream that fails at three
// times the bar at one provider. What the confidence needs to find that is what Wald's test needs
// of the very same outcomes: it knows both rates, and of all tests that err as seldom it is the
// one that needs the least on average (A. Wald, J. Wolfowitz, "Optimum character of the sequential
// probability ratio test", Annals of Mathematical Statistics 19, 1948). The breaker holds the
// stream before a fiftieth of the campaign was sent beyond that, in all but one of a thousand: no
// test that finds other rates, too, can promise it for each. The same stream elsewhere, and
// another stream there, are at the bar at most, and are not touched.
func TestThousandCampaigns(t *testing.T) {
	t.Parallel()
	const (
		campaigns, size, healthy = 1000, 100_000, 5_000
		firstSeed                = 7_000_001
	)
	wrong, late, worst, beyond, needed := 0, 0, 0, 0, 0
	for i := range campaigns {
		seed := uint64(firstSeed + i)
		r := rand.New(rand.NewPCG(25, seed))
		x := newBench("", noon)
		kind, bar := event.Bounced, bars.HardBounces
		if seed%2 == 1 {
			kind, bar = event.Complaint, bars.Complaints
		}
		sent, failed, walds, ours := 0, 0, 0, 0
		for (walds == 0 || ours == 0) && sent <= size {
			sent += x.fails("ill", "far", kind, 3*bar, r)
			failed++
			if walds == 0 && ratio(sent, failed, bar, 3*bar) >= math.Log(1/alpha) {
				walds = sent
			}
			if ours == 0 && x.holds("ill", "far") {
				ours = sent
			}
		}
		if walds == 0 || ours == 0 {
			t.Fatalf("campaign %d: held after %d, Wald's after %d (0: not)", i, ours, walds)
		}
		needed, beyond, worst = needed+walds, beyond+ours-walds, max(worst, ours-walds)
		if ours-walds > size/50 {
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
	t.Logf("Wald's test needed %d recipients on average, ours %d more; at worst %d more, and in %d of %d campaigns more than %d; %d of %d healthy ones were held",
		needed/campaigns, beyond/campaigns, worst, late, campaigns, size/50, wrong, 2*campaigns)
	if late > campaigns/1000 {
		t.Errorf("%d campaigns were held too late", late)
	}
	if wrong > campaigns/1000 {
		t.Errorf("%d healthy ones are held", wrong)
	}
}

// A test for a fixed number, asked after each failure, holds what is healthy: why this one is
// sequential. Asked as often, up to 1,500 times, it keeps its promise at either bar itself.
func TestConfidenceHoldsOverAllLooks(t *testing.T) {
	t.Parallel()
	for _, bar := range []float64{bars.HardBounces, bars.Complaints} {
		fixed, sequential := 0, 0
		for seed := range 1000 {
			r := rand.New(rand.NewPCG(7, uint64(seed)))
			n, s, once, ever := 0, 0, false, false
			for n < 100_000 && s < 1500 {
				n += 1 + int(math.Log(1-r.Float64())/math.Log1p(-bar))
				s++
				z := (float64(s) - bar*float64(n)) / math.Sqrt(bar*(1-bar)*float64(n))
				once = once || z > 3.09 && float64(n)*bar > 5 // one of 1,000, if it is asked once
				ever = ever || proven(n, s, bar)
			}
			if once {
				fixed++
			}
			if ever {
				sequential++
			}
		}
		t.Logf("of 1,000 at a bar of %.3g%%: %d held by a test of a fixed number, %d by ours", 100*bar, fixed, sequential)
		if sequential > 1 || fixed < 10 {
			t.Errorf("%d and %d", sequential, fixed)
		}
	}
}

func TestFewRecipientsProveNothing(t *testing.T) {
	t.Parallel()
	for _, x := range [...]struct {
		n, s int
		want bool
	}{{5, 3, false}, {10, 10, false}, {99, 99, false}, {100, 5, false}, {100, 10, false}, {100, 40, true}, {1000, 60, false}, {10_000, 500, false}, {10_000, 700, true}} {
		if got := proven(x.n, x.s, 0.05); got != x.want {
			t.Errorf("%d of %d: %v", x.s, x.n, got)
		}
	}
	// Ville's inequality wants weights that sum up to 1.
	sum := 0.0
	for _, r := range rates {
		sum += r.weight
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("the weights sum up to %g", sum)
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
	lost, lostToo := delivery("news", "far", event.Complaint, noon), delivery("news", "far", event.LateBounce, noon)
	lost.Site, lostToo.Site = "", "" // the DNS did not tell whose it is
	x.accept("news", "far", 10)
	for _, d := range []*event.Delivery{
		soft, own, nobody, doubted, old, unread, lost, lostToo,
		delivery("news", "far", event.Deferred, noon), delivery("news", "far", event.HandedBack, noon), delivery("news", "far", event.Suppressed, noon),
		delivery("news", "far", event.Bounced, noon), delivery("news", "far", event.LateBounce, noon), delivery("news", "far", event.Complaint, noon),
	} {
		x.Delivery(d)
	}
	list := x.counted()
	if len(list) != 1 || list[0].Key != (Key{"news", "far", "2026-11-29"}) || list[0].Recipients != 11 || list[0].HardBounces != 2 || list[0].Complaints != 1 {
		t.Errorf("%+v", list)
	}
}

// A run is counted for eight days, and mail that is older when its outcome comes is not.
func TestRunsAreCountedForEightDays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	x.accept("news", "far", 10)
	last := noon.AddDate(0, 0, keptDays-1)
	x.Delivery(delivery("news", "far", event.Sent, last))
	x.Delivery(delivery("old", "far", event.Sent, last.AddDate(0, 0, 1)))
	x.save(last, true)
	if list := x.counted(); len(list) != 1 || list[0].Recipients != 11 {
		t.Errorf("%+v", list)
	}
	for n := 1; n <= keptDays; n++ {
		d := delivery("news", "far", event.Sent, noon.AddDate(0, 0, n))
		d.Envelope.Arrived = d.Time
		x.Delivery(d)
		x.save(d.Time, true)
	}
	if list := x.counted(); len(list) != keptDays || list[0].Day != "2026-11-30" {
		t.Errorf("%+v", list)
	}
}

// What cannot be held when it is asked, as all of the stream is paused, is asked again.
func TestHoldIsAskedAgain(t *testing.T) {
	t.Parallel()
	x := newBench("", noon)
	asked := 0
	x.o.Hold = func(string, string, string) bool { asked++; return false }
	x.accept("news", "far", least)
	for second := range 25 {
		for range 10 {
			x.Delivery(delivery("news", "far", event.Bounced, noon.Add(time.Duration(second)*time.Second)))
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times in 25 seconds", asked)
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
	for range least {
		x.Delivery(delivery("news", "google", event.Bounced, noon))
	}
	x.Delivery(delivery("other", "far", event.Complaint, noon))
	for range least {
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
	for range least {
		x.Delivery(delivery("news", "far", event.Bounced, noon))
	}
	if len(x.held) > 0 || len(x.counted()) > 0 || x.InWords("far") != "" {
		t.Errorf("%+v, %+v", x.held, x.counted())
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
	if fmt.Sprint(y.counted()) != fmt.Sprint(x.counted()) || strings.Contains(y.InWords("far"), unknownComplaints) {
		t.Errorf("%+v, %+v", x.counted(), y.counted())
	}
	y.save(noon.AddDate(0, 0, 30), true) // nothing changed
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	z := newBench(path, noon)
	if len(z.counted()) > 0 || !strings.Contains(z.log.String(), "is lost") {
		t.Errorf("%+v: %s", z.counted(), z.log.String())
	}
}

// A crash costs a run no more than a tenth, so complaints about what was sent in it do not look
// like many more; and for that the file is not written all the time.
func TestCrashCostsARunLittle(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	now, writes := noon, 0
	for second := range 100 {
		for range 100 {
			x.Delivery(delivery("news", "far", event.Sent, now))
		}
		now = now.Add(time.Second)
		x.save(now, false)
		if x.saved.Equal(now) {
			writes++
		}
		left, sent := 0, 100*(second+1)
		for _, r := range newBench(path, now).counted() {
			left += r.Recipients
		}
		if sent-left > max(mostUnsaved, sent/10) {
			t.Errorf("after a crash %d of %d are left", left, sent)
		}
	}
	if writes > 50 {
		t.Errorf("written %d times in 100 seconds", writes)
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
// crash; it is from the null sender, says that nobody wrote it, and no name of a stream can
// make a field of it. What was resumed before is not told, and nothing is told twice or lost.
func TestAdminIsToldByOneMailAnHour(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	hold := func(stream string, at time.Time) {
		x.now = at
		for range least {
			x.Delivery(delivery(stream, "far", event.Bounced, at))
		}
		x.save(at, false)
	}
	told := func(mails int, streams ...string) {
		t.Helper()
		if len(x.mails) != mails {
			t.Fatalf("%d mails, want %d", len(x.mails), mails)
		}
		text := ""
		for _, s := range streams {
			text += "stream    " + s + "\r\n"
		}
		got := ""
		for line := range strings.Lines(x.mails[mails-1]) {
			if strings.HasPrefix(line, "stream ") {
				got += line
			}
		}
		if got != text {
			t.Errorf("told %q, want %q", got, text)
		}
	}
	hold("news\r\nBcc: <victim@example.com>\r\n\r\n\u202ebody", noon)
	x.fail = errors.New("disk full")
	x.tell(noon)
	x.fail = nil
	x.tell(noon.Add(time.Second))
	if len(x.mails) != 0 {
		t.Fatal("tried again at once")
	}
	x.tell(noon.Add(time.Minute))
	told(1, `news\r\nBcc: <victim@example.com>\r\n\r\n\u202ebody`)
	m, err := mail.ReadMessage(strings.NewReader(x.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Auto-Submitted") != "auto-generated" || m.Header.Get("Bcc") != "" || m.Header.Get("To") != "<postmaster>" ||
		strings.ContainsFunc(x.mails[0], func(r rune) bool { return r > 0x7e }) || !strings.Contains(x.mails[0], "hard bounces of") {
		t.Errorf("%s", x.mails[0])
	}
	hold("b", noon.Add(2*time.Minute))
	hold("c", noon.Add(3*time.Minute))
	hold("d", noon.Add(4*time.Minute))
	x.tell(noon.Add(60 * time.Minute))
	told(1, `news\r\nBcc: <victim@example.com>\r\n\r\n\u202ebody`)
	x.held = slices.DeleteFunc(x.held, func(p control.Pause) bool { return p.Filter.Stream == "c" }) // an admin resumes it
	crash := func() {
		y := newBench(path, noon)
		y.held, y.mails = x.held, x.mails
		x = y
	}
	crash()
	x.dirty = true
	x.save(noon.Add(61*time.Minute), true)
	x.tell(noon.Add(61 * time.Minute))
	told(2, "b", "d")
	x.save(noon.Add(61*time.Minute+time.Second), false)
	crash()
	hold("e", noon.Add(62*time.Minute))
	x.tell(noon.Add(2 * time.Hour))
	told(2, "b", "d")
	x.tell(noon.Add(3 * time.Hour))
	told(3, "e")
	x.tell(noon.Add(5 * time.Hour))
	told(3, "e")

	// A clock that is set back keeps nothing from the admin.
	hold("f", noon.Add(-time.Hour))
	x.tell(noon.Add(-time.Hour))
	if len(x.mails) != 4 || !strings.Contains(x.mails[3], "stream    f\r\n") {
		t.Errorf("%d mails", len(x.mails))
	}
	x.Use(Policy{Bars: bars})
	hold("g", noon.Add(5*time.Hour))
	x.tell(noon.Add(6 * time.Hour))
	if len(x.mails) != 4 {
		t.Error("told although notify is empty")
	}
}
