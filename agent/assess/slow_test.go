package assess

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/feedback"
)

// The owner of a domain, who is on a list, has no reports of others wait for his name
// servers: whatever he sends, they are waited for once in a minute.
func TestSlowNameServersHoldUpNoReports(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	var reports [][]byte
	for i := range 20 {
		m := message(uint32(i+1), ann, bob)
		reports = append(reports, w.signedBy(fmt.Sprintf("s%d.remote.example", i), postfix(t, m, bob)))
	}
	synctest.Test(t, func(t *testing.T) {
		w.a.LookupKey = func(ctx context.Context, _ string) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		j := judge{a: w.a, set: w.options.Settings.Now()}
		holds := func(b []byte) bool {
			r, err := feedback.Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			j.report, j.message, j.now = r, b, time.Now()
			return j.signature(t.Context(), "remote.example")
		}
		for _, b := range reports {
			if holds(b) {
				t.Error("a signature holds whose key is not known")
			}
		}
		if took := time.Since(began); took > 2*lookUpFor {
			t.Errorf("%d reports took %s", len(reports), took)
		}
		time.Sleep(slowFor)
		began = time.Now()
		if holds(reports[0]); time.Since(began) < lookUpFor {
			t.Error("the name servers are not asked again after a while")
		}
	})
}
