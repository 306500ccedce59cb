package watch

import (
	"testing"

	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/fleet/lease"
)

func TestLimitsThatDifferAreCounted(t *testing.T) {
	t.Parallel()
	x := fleet.Status{Status: lease.Status{Less: []lease.Less{{Field: "s:general", Limit: 10, Node: "b"}, {Field: "r:general", Limit: 5000, Node: "b"}}, Waiting: 7}}
	if f := fleetOf(&x); f.Differing != 2 || f.Wanting != 7 {
		t.Errorf("%+v", f)
	}
}
