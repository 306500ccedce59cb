package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// lookupsAtOnce is how many domains are looked up at once (package settings).
const lookupsAtOnce = 128

// One message to many domains whose name servers are silent keeps nobody else's mail
// waiting until these have been given up, wave after wave.
func TestSilentNameServersHoldUpNoOtherDomain(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(*config.Config) {},
		sink.Provider{Name: "silent", Domains: []string{"*.silent.test"}, Behaviour: sink.Behaviour{DNS: sink.Silent}},
		sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	silent := make([]string, 3*lookupsAtOnce)
	for i := range silent {
		silent[i] = fmt.Sprintf("a@d%d.silent.test", i)
	}
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, silent...)
	s.until("the first is asked for", func() bool { return s.net.Stats().Lookups > 0 })
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	if n := strings.Count(s.log.String(), "no way to domain"); n >= lookupsAtOnce {
		t.Errorf("delivered after %d look-ups were given up", n)
	}
}
