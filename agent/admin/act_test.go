package admin

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/watch"
)

// TestNoVerbActsOnHalfASpool: while the spool is being read a verb would reach only
// what has been read, and nobody would know.
func TestNoVerbActsOnHalfASpool(t *testing.T) {
	t.Parallel()
	b := New(Options{Watch: &watch.Watch{}})
	_, err := b.Act(t.Context(), control.Action{Verb: control.VerbRelease, Filter: control.Filter{All: true}}, func(control.Selected) {})
	if err == nil || !strings.Contains(err.Error(), "still being read") {
		t.Error(err)
	}
}
