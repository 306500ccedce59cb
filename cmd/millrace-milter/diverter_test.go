package main

import (
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// The inlet spools by what the agent knows now: neither before its first word, nor after a
// word that it does not know, nor long after its last one.
func TestInletSpoolsByWhatTheAgentKnows(t *testing.T) {
	t.Parallel()
	d, now := &diverter{}, time.Now()
	if d.notAccepted() == "" {
		t.Error("before the agent's first word")
	}
	d.heard(control.MilterAnswer{InletKnown: true}, now)
	if why := d.notAccepted(); why != "" {
		t.Error(why)
	}
	d.heard(control.MilterAnswer{InletKnown: true, InletBypassed: "always_bcc"}, now)
	if d.notAccepted() != "always_bcc" {
		t.Error("what it says")
	}
	d.heard(control.MilterAnswer{InletKnown: true}, now)
	d.heard(control.MilterAnswer{}, now)
	if d.notAccepted() == "" {
		t.Error("it no longer knows: it observes, or reads the settings anew")
	}
	d.heard(control.MilterAnswer{InletKnown: true}, now.Add(-bypassedFor-time.Second))
	if d.notAccepted() == "" {
		t.Error("it has been silent for long")
	}
}
