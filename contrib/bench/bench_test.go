package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/plot"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/tidy"
	"github.com/millrace/millrace/contrib/sim"
)

func TestMain(m *testing.M) {
	if verdict, socket, ok := asNullMilter(os.Args); ok {
		if err := serveNullMilter(verdict, socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if job, ok := asSessionClient(os.Args); ok {
		if err := job.run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	tidy.Main(m, lab.WithPrograms)
}

func TestMailThatWentAnotherWayIsNoMeasurement(t *testing.T) {
	h, err := start(t.Context(), world{postfix: discard(), null: nullAccept})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.close() })
	c, err := lab.Dial(t.Context(), h.Postfix.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), "a@sender.test", []string{"b@d.example"}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := h.wentItsWay(t.Context(), 1); err != nil {
		t.Errorf("one delivery was wanted and made: %v", err)
	}
	if err := h.wentItsWay(t.Context(), 0); err == nil {
		t.Error("a delivery where none was wanted goes unnoticed")
	}
}

func TestRoundsRunVariantsBackAndForth(t *testing.T) {
	t.Parallel()
	var order strings.Builder
	v := func(name string) variant[int] {
		return variant[int]{name, func(context.Context) (int, error) { order.WriteString(name); return order.Len(), nil }}
	}
	b := &bench{settings: &settings{rounds: 3}, progress: io.Discard}
	got, err := alternate(t.Context(), b, "x", []variant[int]{v("a"), v("b"), v("c")}, func(i int) string { return fmt.Sprint(i) })
	if err != nil {
		t.Fatal(err)
	}
	if order.String() != "abccbaabc" {
		t.Errorf("ran in order %s", &order)
	}
	if want := [][]int{{1, 6, 7}, {2, 5, 8}, {3, 4, 9}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSeries(t *testing.T) {
	t.Parallel()
	inf := math.Inf(1)
	for _, x := range []struct {
		s    series
		want string
	}{
		{series{2}, "2"},
		{series{3, 1, 2}, "2 (1-3)"},
		{series{4, 1, 2, 3}, "2.5 (1-4)"},
		{series{2, 2}, "2"},
		{series{1, inf, inf}, "unbounded (1-unbounded)"},
		{series{inf, inf}, "unbounded"},
		{series{1, math.NaN()}, "-"},
		{nil, "-"},
		{series{1, 9, 4}.to(series{2, 3, 4}), "1 (0.5-3)"},
	} {
		if got := x.s.cell(ratio); got != x.want {
			t.Errorf("%v: got %q, want %q", []float64(x.s), got, x.want)
		}
	}
}

func TestWhatNeverArrivesCountsAsSlowest(t *testing.T) {
	t.Parallel()
	list := slices.Concat(slices.Repeat([]time.Duration{time.Second}, 98), []time.Duration{2 * time.Second, never})
	for q, want := range map[float64]float64{0.5: 1, 0.98: 1, 0.99: 2, 1: math.Inf(1), 0: 1} {
		if got := quantile(list, q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing is %v", got)
	}
}

func TestArrivalsTellProgress(t *testing.T) {
	t.Parallel()
	began := time.Now()
	a := &arrivals{first: make(map[string]time.Time)}
	a.note(&sink.Message{Content: []byte("Received: x\r\nX-Lab-ID: b-1\r\nSubject: y\r\n\r\n")})
	if _, ok := a.at("b-1"); !ok {
		t.Fatal("the message is not noted under its id")
	}
	a.first["b-1"], a.first["b-2"] = began.Add(time.Second), began.Add(2*time.Second)
	got := a.since(began, []string{"b-3", "b-2", "b-1", "b-4"})
	if want := []time.Duration{time.Second, 2 * time.Second, never, never}; !slices.Equal(got, want) || arrivedOf(got) != 0.5 {
		t.Errorf("took %v, %v of all; want %v and half", got, arrivedOf(got), want)
	}
	l := distribution("x", got, 1.5)
	if n := len(l.Points); n != 50 || l.Points[0] != (plot.Point{X: 1.5, Y: 1}) || l.Points[49] != (plot.Point{X: 2, Y: 50}) {
		t.Errorf("drawn as %v", l.Points)
	}
	if l := distribution("x", got, 0); len(l.Points) != 51 || l.Points[0] != (plot.Point{}) {
		t.Errorf("on an axis from 0 drawn as %v", l.Points)
	}
}

func TestMarkdownEscapesAndJudges(t *testing.T) {
	t.Parallel()
	s := section{title: "T", about: "About.",
		tables: []table{{title: "Figures", columns: []string{"", "n"}, rows: [][]string{{"a|b", "1"}}}},
		claims: []claim{
			{what: "x / y", reach: "at most 1", got: series{0.5, 2, 0.7}, met: atMost(1)},
			{what: "z / y", reach: "at least 1", got: series{0.5}, met: atLeast(1)},
			{what: "none", reach: "at least 1", got: nil, met: atLeast(1)},
			{what: "for the record", got: series{3}},
		}}
	var out strings.Builder
	r := report{settings: &settings{rounds: 3, given: []string{"-rounds", "3"}}, sections: []section{s}}
	r.markdown(&out)
	_, got, _ := strings.Cut(out.String(), "\n## T\n")
	want := `
About.

Figures:

|  | n |
|---|---:|
| a\|b | 1 |

Ratios within a round:

| ratio | median (spread) | to reach | reached |
|---|---:|---:|---:|
| x / y | 0.7 (0.5-2) | at most 1 | yes |
| z / y | 0.5 | at least 1 | no |
| none | - | at least 1 | not measured |
| for the record | 3 | - | - |
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	s, err := parse([]string{"-quick", "-rounds", "2", "-size", "2,8, 50", "-scenario", "milter,blast"})
	if err != nil {
		t.Fatal(err)
	}
	if s.rounds != 2 || s.messages >= 4000 {
		t.Errorf("-quick takes %d rounds of %d messages: want what was said, and otherwise little", s.rounds, s.messages)
	}
	if want := []int{2 << 10, 8 << 10, 50 << 10}; !slices.Equal(s.sizes, want) {
		t.Errorf("sizes %v, want %v", s.sizes, want)
	}
	for _, bad := range [][]string{{"-scenario", "nosuch"}, {"-size", "x"}, {"-size", "0"}, {"-rounds", "0"}, {"-window", "0s"}, {"-window", "30s"}, {"stray"}, {"-nosuch"},
		{"-receivers", "11"}, {"-receivers", "x"}, {"-without", "x"}, {"-learn", "0s"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}

func TestStartsAreHeldAgainstTheirLimits(t *testing.T) {
	t.Parallel()
	p := pile{n: million, size: 500}
	got := p.claims([]beginning{{first: time.Second, read: time.Hour, memory: 250e6}})
	if len(got) != 2 || got[0].row()[3] != "yes" || got[1].row()[3] != "no" {
		t.Errorf("claims %+v", got)
	}
}

func TestReportHeadsWithEveryNumber(t *testing.T) {
	t.Parallel()
	got := numbersTable([]section{
		{claims: []claim{{what: "something else", got: series{1}}, drainRate.claim(series{0.9})}},
		{claims: []claim{drainCPU.claim(series{0.06})}},
	})
	verdicts := map[string]string{}
	for _, row := range got.rows {
		verdicts[row[0]] = row[3]
	}
	all := numbers()
	if len(verdicts) != int(killsLose)+1 || len(all) != len(verdicts) {
		t.Errorf("%d numbers in %d rows", len(all), len(verdicts))
	}
	for id, want := range map[numberID]string{drainRate: "yes", drainCPU: "no", milterRate: "not measured (milter)", killsLose: "not measured (make soak, not here)"} {
		if v := verdicts[all[id].what]; v != want {
			t.Errorf("%s: %q, want %q", all[id].what, v, want)
		}
	}
}

func TestGoodputIsJudgedOnceItIsSteady(t *testing.T) {
	t.Parallel()
	if got := (fared{goodput: []float64{0, 0, possibleRate, possibleRate / 2}}).steady(); got != 0.75 {
		t.Errorf("steady goodput is %v of the possible, want 0.75", got)
	}
	rounds := [][]limitsRound{{{{goodput: []float64{2, 4}}}, {{goodput: []float64{6, 8}}}}}
	c := goodputPlot("x", 0, []variant[limitsRound]{{name: "a"}}, rounds)
	if want := []plot.Point{{X: 1, Y: 4}, {X: 2, Y: 6}}; !slices.Equal(c.Lines[0].Points, want) {
		t.Errorf("drawn as %v, want %v", c.Lines[0].Points, want)
	}
}

func TestReadmeGetsTheComparison(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	readme := filepath.Join(dir, "README.md")
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := report{settings: &settings{rounds: 3}, machine: machine{{"cores", "2"}},
		sections: []section{{compared: []comparison{{"median", "19 s", "1 s", "10 ms"}}}}}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	write(latencyPlot+".svg", "<svg/>")
	write(readmePlot, "old")
	write("README.md", "before\n"+readmeBegin+"old\n"+readmeEnd+"after\n")
	for range 2 { // what is written can be replaced again
		if err := writeReadme([]string{dir}, readme); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n" + readmeBegin, "\n| median | 19 s | 1 s | 10 ms |\n", "3 rounds", "2 cores", "(" + readmePlot + ")", readmeEnd + "after\n"} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("README has no %q once:\n%s", want, got)
		}
	}
	if picture, err := os.ReadFile(filepath.Join(dir, readmePlot)); err != nil || string(picture) != "<svg/>" {
		t.Errorf("the plot is %q, %v", picture, err)
	}

	more := t.TempDir()
	further := report{settings: &settings{rounds: 1}, machine: machine{{"cores", "2"}},
		sections: []section{{compared: []comparison{{"goodput", "1%", "2%", "98%"}}}}}
	if err := further.write(more); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme([]string{dir, more}, readme); err != nil {
		t.Fatal(err)
	}
	got, err = os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n| median | 19 s | 1 s | 10 ms |\n| goodput | 1% | 2% | 98% |\n", `3 rounds`, "the rows from 2 on: one round"} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("README of two reports has no %q once:\n%s", want, got)
		}
	}
	further.machine = machine{{"cores", "2"}, {"Millrace", "another"}}
	if err := further.write(more); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme([]string{dir, more}, readme); err == nil {
		t.Error("README takes the figures of two commits as of one")
	}

	r.settings.quick = true
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme([]string{dir}, readme); err == nil {
		t.Error("README takes the figures of a quick run")
	}
	write("README.md", "no place\n")
	r.settings.quick = false
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := writeReadme([]string{dir}, readme); err == nil {
		t.Error("a README without a place for it is taken")
	}
}

func TestReceiversAreGroupedUnderARate(t *testing.T) {
	t.Parallel()
	var list []*target
	for _, rate := range []float64{10, 50, 30, 20, 90, 5} {
		list = append(list, &target{rate: rate})
	}
	var got []string
	for _, g := range grouped(list, 60) {
		var rates []float64
		for _, x := range g {
			rates = append(rates, x.rate)
		}
		got = append(got, fmt.Sprint(rates))
	}
	if want := []string{"[90]", "[50 10]", "[30 20 5]"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAReceiverIsHeldAgainstWhatItsOracleReaches(t *testing.T) {
	t.Parallel()
	b := &bench{settings: &settings{learn: 5 * time.Second, measured: 20 * time.Second}}
	limited := b.newTarget(sim.Table()[1], "x", 1, mostOffered)
	if limited.offered != 0 || limited.waiting < int(limited.rate*25) || limited.rate < 20 || limited.rate > 25 {
		t.Errorf("5 connections of 215 ms a message: %+v", limited)
	}
	free := b.newTarget(sim.Table()[9], "x", 1, mostOffered)
	if free.offered != mostOffered || free.waiting != 0 || free.possible != 20*mostOffered {
		t.Errorf("no limit: %+v", free)
	}
	got := free.met(sink.HostStats{Messages: 100, Refused: map[sink.Cause]int64{sink.CauseRate: 1}},
		sink.HostStats{Messages: 900, Refused: map[sink.Cause]int64{sink.CauseRate: 9, sink.CauseConnections: 3, sink.CauseBan: 1}})
	if want := (met{share: 0.5, refused: 0.005, tooFast: 0.01}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
