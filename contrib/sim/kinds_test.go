//go:build !race

// A simulation is one goroutine: see population_test.go.

package sim

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// seeds is how many runs each kind gets; the worst counts. Three are what the time
// of the tests allows. The controller was tuned with the seeds 1 to 20; others are
// tried by millrace-sim --first.
const seeds = 3

// gaveWay are the marks that the controller does not reach, what it reaches instead, and
// why. A mark that is reached again is to be taken out.
var gaveWay = map[string]Marks{
	"1 message/s":                       {Refusals: 0.027, Why: "the pace is raised in steps of messages, and of one a second few are between two refusals"},
	"1% too fast by chance":             {Start: 94, Why: "the rate is thought to be at fault until a higher one is tried"},
	"8% too fast by chance":             {Start: 96, Why: "the same"},
	"3% too fast by chance, 2 hosts":    {Start: 62, Why: "the same"},
	"limit of 10, refusal bans 1s":      {Refusals: 0.0031, Why: "whether slots are freed late is tried for 6 s, each time a refusal, before the door counts as shut"},
	"limit of 10, refusal bans 5s":      {Refusals: 0.003, Why: "the same"},
	"limit of 20, refusal bans 5s":      {Refusals: 0.007, Why: "the same, and a ban that comes of a replacement is not told from a receiver that is busy"},
	"limit of 10, refusal bans 30s":     {Goodput: 0.44, Refusals: 0.016, Why: "the same, and each makes the ban longer: we wait up to 15 minutes until it is over, and once more after a probe"},
	"limit of 20, refusal bans 30s":     {Goodput: 0.35, Refusals: 0.008, Why: "the same"},
	"refusal takes 1 of 10":             {Goodput: 0.09, Refusals: 0.0195, Why: "a limit that falls with each refusal is not told from one that was lowered, and is probed again and again"},
	"refusal takes 3 of 20":             {Goodput: 0.035, Refusals: 0.022, Why: "the same"},
	"limit told after the dot":          {Goodput: 0.82, Why: "a probe makes the receiver refuse a message of each session"},
	"host sends every 20s, limit of 10": {Host: 0.017, Why: "probes take the host's places each 2 minutes"},
}

// lower are the marks with those in the place of which others are reached.
func (m Marks) lower(way Marks) Marks {
	m.Goodput, m.Refusals = cmp.Or(way.Goodput, m.Goodput), cmp.Or(way.Refusals, m.Refusals)
	m.Start, m.Recovery, m.Host = cmp.Or(way.Start, m.Start), cmp.Or(way.Recovery, m.Recovery), cmp.Or(way.Host, m.Host)
	return m
}

// count is how many marks are given.
func (m Marks) count() (n int) {
	for _, v := range []float64{m.Goodput, m.Refusals, m.Start, m.Recovery, m.Host} {
		if v != 0 {
			n++
		}
	}
	return n
}

// TestEveryKindReachesItsMarks holds the controller to what it has to reach and,
// by the golden file, to what it has reached.
func TestEveryKindReachesItsMarks(t *testing.T) {
	const file = "testdata/golden.txt"
	kinds := Kinds()
	rows := make([]*Row, len(kinds))
	t.Run("kind", func(t *testing.T) {
		for i, k := range kinds {
			t.Run(k.Name, func(t *testing.T) {
				t.Parallel()
				row := NewRow(k, 1, seeds)
				rows[i] = row
				misses := row.Misses
				if way, ok := gaveWay[k.Name]; ok {
					if n := way.count(); len(misses) != n {
						t.Errorf("%d marks gave way, %d are missed: %q", n, len(misses), misses)
					}
					k.Marks = k.Marks.lower(way)
					misses = k.Misses(&row.Worst)
				}
				for _, m := range misses {
					t.Error(m)
				}
				if t.Failed() {
					for _, c := range row.Seeds[0].Changes {
						t.Log(c.At.Sub(epoch), c.From, c.To, c.Pace, c.Cause)
					}
				}
			})
		}
	})
	for _, r := range rows {
		if r == nil {
			return // only some were asked for
		}
	}
	var got bytes.Buffer
	if err := WriteTable(&got, rows); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("%s is not what is simulated now; if that is no loss: go test ./contrib/sim -update\n%s", file, difference(string(want), got.String()))
	}
}

// difference shows the lines that changed.
func difference(old, now string) string {
	var b strings.Builder
	before, after := strings.Split(old, "\n"), strings.Split(now, "\n")
	for i := range max(len(before), len(after)) {
		var x, y string
		if i < len(before) {
			x = before[i]
		}
		if i < len(after) {
			y = after[i]
		}
		if x != y {
			fmt.Fprintf(&b, "- %s\n+ %s\n", x, y)
		}
	}
	return b.String()
}

// The figure of Postfix's documentation is the mail deferred on the first pass;
// ours is the refusals, each of which would defer a message there.
func TestBesidePostfixsOwnExperiment(t *testing.T) {
	t.Parallel()
	const postfix = 0.165 // with 1/N feedback, its best
	for _, k := range Kinds() {
		if k.Name != PostfixExperiment {
			continue
		}
		r := NewRow(k, 1, seeds)
		t.Logf("%.2f%% refused, Postfix's best defers %.1f%%", 100*r.Worst.Refusals, 100*postfix)
		if r.Worst.Refusals > postfix/50 {
			t.Errorf("%.2f%% refused", 100*r.Worst.Refusals)
		}
		return
	}
	t.Fatal("the experiment is not among the kinds")
}

func TestTheSameSeedGivesTheSameRun(t *testing.T) {
	t.Parallel()
	k := Kinds()[3]
	a, b, other := Run(k, 1), Run(k, 1), Run(k, 2)
	if a.Figures != b.Figures {
		t.Errorf("%+v and %+v", a.Figures, b.Figures)
	}
	if a.Figures == other.Figures {
		t.Error("another seed changes nothing")
	}
}

// A host that is not left any room is refused often: else the kinds show nothing.
func TestHostMailSuffersIfTheControllerDoesNotHearOfIt(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		if k.HostEvery == 0 {
			continue
		}
		k.HostUntold = true
		if r := Run(k, 1); r.Host < 10*hostMark {
			t.Errorf("%s: only %.2f%% of the host's connections refused", k.Name, 100*r.Host)
		}
	}
}

// Marks other than those of all kinds need a reason.
func TestOtherMarksHaveAReason(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, k := range Kinds() {
		if names[k.Name] {
			t.Errorf("%s is there twice", k.Name)
		}
		names[k.Name] = true
		if (k.Marks == Marks{}) != (k.Marks.Why == "") {
			t.Errorf("%s: marks without a reason, or a reason without marks", k.Name)
		}
	}
	for name, way := range gaveWay {
		if !names[name] || way.count() == 0 || way.Why == "" {
			t.Errorf("%s: no such kind, no mark, or no reason", name)
		}
	}
}
