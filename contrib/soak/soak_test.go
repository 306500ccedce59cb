package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/sink/ledger"
)

// tidy runs the tests and then looks for goroutines that they left.
type tidy struct{ *testing.M }

func (m tidy) Run() int {
	code := m.M.Run()
	if leak := goleak.Find(); leak != nil && code == 0 {
		fmt.Fprintln(os.Stderr, leak)
		code = 1
	}
	return code
}

func TestMain(m *testing.M) { lab.Main(tidy{m}, lab.WithPrograms) }

// A short run with a seed that brings crashes of everything.
func TestShortSoak(t *testing.T) {
	err := soak(t.Context(), settings{
		duration: 45 * time.Second, seed: 6871, rate: 30, drain: 5 * time.Minute,
		evidence: filepath.Join(t.TempDir(), "evidence"),
	}, t.Output())
	if err != nil {
		t.Error(err)
	}
}

func TestSeedRepeatsSchedule(t *testing.T) {
	t.Parallel()
	text := func(seed uint64) string {
		var b bytes.Buffer
		all := lanes()
		printSchedule(&b, all, schedule(seed, 10*time.Minute, all))
		return b.String()
	}
	one := text(1)
	if one != text(1) {
		t.Error("seed 1 gives two schedules")
	}
	if one == text(2) {
		t.Error("seeds 1 and 2 give the same schedule")
	}
	for _, l := range lanes() {
		for _, k := range l.kinds {
			if !strings.Contains(text(1)+text(2)+text(3), k.name) {
				t.Errorf("%s: %s comes in none of three schedules", l.name, k.name)
			}
		}
	}
}

func TestScheduleKeepsToItsTime(t *testing.T) {
	t.Parallel()
	const duration = 3 * time.Minute
	all := lanes()
	free := make([]time.Duration, len(all)) // when the lane's last fault is over
	faults := schedule(7, duration, all)
	if !slices.IsSortedFunc(faults, func(a, b fault) int { return int(a.at - b.at) }) {
		t.Error("not in order")
	}
	for _, f := range faults {
		if f.at < free[f.lane] || f.at < warmUp(duration) || f.at+f.lasts > duration {
			t.Errorf("%s: %s at %v for %v, the one before ends at %v", all[f.lane].name, f.kind.name, f.at, f.lasts, free[f.lane])
		}
		free[f.lane] = f.at + f.lasts
	}
}

// Each kind of copy too many is told from the others, and from those that
// nothing explains.
func TestExplain(t *testing.T) {
	t.Parallel()
	type taken struct {
		id, spool  string
		conn       uint64
		unanswered bool
		back       bool
	}
	for name, c := range map[string]struct {
		taken    []taken
		doubtful []string // offered without an answer
		orphans  []string
		want     explained
		unlawful int
	}{
		"once":                        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-2", "", 1, false, false}}},
		"agent repeats the last":      {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-1", 2, false, false}}, want: explained{repeats: 1}},
		"agent repeats an earlier":    {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-2", "M1-2", 1, false, false}, {"b-1", "M1-1", 2, false, false}}, unlawful: 1},
		"receiver was silent":         {taken: []taken{{"b-1", "M1-1", 1, true, false}, {"b-1", "M1-1", 2, false, false}}, want: explained{dropped: 1}},
		"Postfix repeats the last":    {taken: []taken{{"b-1", "", 1, false, false}, {"b-1", "", 2, false, false}}, want: explained{host: 1}},
		"Postfix repeats an earlier":  {taken: []taken{{"b-1", "", 1, false, false}, {"b-2", "", 1, false, false}, {"b-1", "", 2, false, false}}, unlawful: 1},
		"both ways, an orphan":        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, orphans: []string{"M1-1"}, want: explained{orphans: 1}},
		"both ways, no orphan":        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, unlawful: 1},
		"both ways, another's orphan": {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, orphans: []string{"M1-2"}, unlawful: 1},
		"handed back after a crash":   {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-1", 2, false, true}}, want: explained{repeats: 1}},
		"handed back twice":           {taken: []taken{{"b-1", "M1-1", 1, false, true}, {"b-2", "", 1, false, false}, {"b-1", "M1-1", 2, false, true}}, want: explained{back: 1}},
		"offered twice":               {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-2", 1, false, false}}, doubtful: []string{"b-1"}, want: explained{offered: 1}},
		"offered once, spooled twice": {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-2", 1, false, false}}, unlawful: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := evidence{sent: new(ledger.Ledger), received: new(ledger.Ledger), orphans: map[string]bool{}}
			to := [][]byte{[]byte("a@far.test")}
			for _, id := range c.doubtful {
				e.sent.Add(&ledger.Message{ID: []byte(id), Recipients: to, Unanswered: true})
			}
			for _, id := range c.orphans {
				e.orphans[id] = true
			}
			for i, x := range c.taken {
				e.received.Add(&ledger.Message{
					ID: []byte(x.id), Recipients: to, Conn: x.conn, Unanswered: x.unanswered, Time: time.Unix(int64(i), 0),
				})
				e.arrivals = append(e.arrivals, arrival{ledger.Copy{ID: x.id, Recipient: string(to[0])}, x.spool, x.back})
			}
			got := explain(e)
			if len(got.unlawful) != c.unlawful {
				t.Errorf("nothing explains %q, want %d", got.unlawful, c.unlawful)
			}
			if c.unlawful > 0 {
				return
			}
			got.unlawful = nil
			if got.repeats != c.want.repeats || got.dropped != c.want.dropped || got.host != c.want.host ||
				got.orphans != c.want.orphans || got.back != c.want.back || got.offered != c.want.offered {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
