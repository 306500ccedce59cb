//go:build !race

// A simulation is one goroutine: see population_test.go.

package sim

import (
	"bytes"
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
				rows[i] = NewRow(k, 1, seeds)
				for _, m := range rows[i].Misses {
					t.Error(m)
				}
				if t.Failed() {
					for _, c := range rows[i].Seeds[0].Changes {
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
}
