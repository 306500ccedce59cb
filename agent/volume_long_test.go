//go:build long

package agent

import (
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// TestHowLongAVerbTakes has each verb meet 100,000 messages of a SASL user, a stream,
// a domain, among as many others, and prints the time.
func TestHowLongAVerbTakes(t *testing.T) {
	const each = 100_000
	s, filters := mailing(t, 3*each, each)
	for _, f := range filters {
		for _, o := range []control.Action{
			{Verb: control.VerbCancel, Dry: true}, {Verb: control.VerbHold}, {Verb: control.VerbRelease}, {Verb: control.VerbCancel},
		} {
			o.Filter = f
			began := time.Now()
			done, err := s.admin().Act(t.Context(), o, nil)
			if err != nil || done.Recipients != each || done.Messages != each {
				t.Errorf("%s by %s: %+v, %v", o.Verb, f, done, err)
			}
			t.Logf("%-8s dry %-5v by %-24s %v", o.Verb, o.Dry, f, time.Since(began).Round(time.Millisecond))
		}
	}
	for _, f := range []control.Filter{{User: "good"}, {Stream: "stream1"}} {
		began := time.Now()
		s.pause(f, "for the time it takes")
		t.Logf("pause of %-24s %v", f, time.Since(began).Round(time.Millisecond))
	}
}
