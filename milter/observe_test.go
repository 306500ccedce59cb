package milter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// builtin is a configuration that observes by the built-in rules alone.
func builtin() *config.Config {
	cfg := divertAll()
	cfg.Milter.Mode, cfg.Milter.Rules = config.Observe, nil
	cfg.Milter.BulkRecipients, cfg.Milter.BulkWindow = 3, time.Hour
	return cfg
}

// TestObserveModeCountsVolumeAcrossReloads sends a list's mail with one sign of
// bulk. The fourth recipient makes it bulk, and a reload in between forgets
// nothing.
func TestObserveModeCountsVolumeAcrossReloads(t *testing.T) {
	t.Parallel()
	s := serve(t, builtin(), &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	send := func() {
		m.wants(m.headers("news@b.example", []string{"c@d.example", "e@F.example"}, "List-Unsubscribe: <x>"), acc)
	}
	send()
	if n := len(s.log.Lines("verdict=leave", "diverted=0", `reason="no evidence of bulk but List-Unsubscribe"`)); n != 1 {
		t.Errorf("%d verdicts for two recipients", n)
	}
	if err := s.server.Reload(builtin()); err != nil {
		t.Fatal(err)
	}
	send()
	if n := len(s.log.Lines("verdict=observe", "diverted=2", "rule=builtin", "stream=b.example",
		`reason="List-Unsubscribe, volume of the sender"`, "to_domains=d.example:1,f.example:1")); n != 1 {
		t.Errorf("%d verdicts for four recipients", n)
	}
	if len(s.spool.all()) > 0 {
		t.Error("the spool got a message")
	}
}

// TestVerdictsSayNothingOfTheMessageBefore has a message that cannot be judged
// follow one that could.
func TestVerdictsSayNothingOfTheMessageBefore(t *testing.T) {
	t.Parallel()
	s := serve(t, builtin(), &fakeSpool{})
	m := connect(t, s, postfixVersion, actions, steps)
	m.wants(m.headers("a@b.example", []string{"c@d.example"}, "X-Millrace: divert"), acc)
	m.wants(m.headers("a@b.example", slicesRepeat(strings.Repeat("x", 50000)+"@d.example", 100)), acc)
	if n := len(s.log.Lines("too large", `rule="" stream=""`)); n != 1 {
		t.Errorf("the log says otherwise:\n%.2000s", s.log)
	}
}
