package repeats

import (
	"reflect"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

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
		want     Counts
		unlawful int
	}{
		"once":                        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-2", "", 1, false, false}}},
		"agent repeats the last":      {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-1", 2, false, false}}, want: Counts{Repeats: 1}},
		"agent repeats an earlier":    {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-2", "M1-2", 1, false, false}, {"b-1", "M1-1", 2, false, false}}, unlawful: 1},
		"receiver was silent":         {taken: []taken{{"b-1", "M1-1", 1, true, false}, {"b-1", "M1-1", 2, false, false}}, want: Counts{Dropped: 1}},
		"Postfix repeats the last":    {taken: []taken{{"b-1", "", 1, false, false}, {"b-1", "", 2, false, false}}, want: Counts{Host: 1}},
		"Postfix repeats an earlier":  {taken: []taken{{"b-1", "", 1, false, false}, {"b-2", "", 1, false, false}, {"b-1", "", 2, false, false}}, unlawful: 1},
		"both ways, an orphan":        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, orphans: []string{"M1-1"}, want: Counts{Orphans: 1}},
		"both ways, no orphan":        {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, unlawful: 1},
		"both ways, another's orphan": {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "", 2, false, false}}, orphans: []string{"M1-2"}, unlawful: 1},
		"handed back after a crash":   {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-1", 2, false, true}}, want: Counts{Repeats: 1}},
		"handed back twice":           {taken: []taken{{"b-1", "M1-1", 1, false, true}, {"b-2", "", 1, false, false}, {"b-1", "M1-1", 2, false, true}}, want: Counts{Back: 1}},
		"offered twice to Postfix":    {taken: []taken{{"b-1", "", 1, false, false}, {"b-2", "", 1, false, false}, {"b-1", "", 2, false, false}}, doubtful: []string{"b-1"}, want: Counts{Offered: 1}},
		"offered twice":               {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-2", 1, false, false}}, doubtful: []string{"b-1"}, want: Counts{Offered: 1}},
		"offered once, spooled twice": {taken: []taken{{"b-1", "M1-1", 1, false, false}, {"b-1", "M1-2", 1, false, false}}, unlawful: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := Evidence{Sent: new(ledger.Ledger), Received: new(ledger.Ledger), Orphans: map[string]bool{}}
			to := [][]byte{[]byte("a@far.test")}
			for _, id := range c.doubtful {
				e.Sent.Add(&ledger.Message{ID: []byte(id), Recipients: to, Unanswered: true})
			}
			for _, id := range c.orphans {
				e.Orphans[id] = true
			}
			for i, x := range c.taken {
				e.Received.Add(&ledger.Message{
					ID: []byte(x.id), Recipients: to, Conn: x.conn, Unanswered: x.unanswered, Time: time.Unix(int64(i), 0),
				})
				e.Arrivals = append(e.Arrivals, Arrival{ledger.Copy{ID: x.id, Recipient: string(to[0])}, x.spool, x.back})
			}
			got := Explain(e)
			if len(got.Unlawful) != c.unlawful {
				t.Errorf("nothing explains %q, want %d", got.Unlawful, c.unlawful)
			}
			if c.unlawful > 0 {
				return
			}
			got.Unlawful = nil
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
