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

// However many domains are slow, most workers are for those that are asked for anew; and
// of one worker nobody is shut out.
func TestSlowLookupsLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, x := range []struct{ workers, slow int }{{8, 2}, {3, 1}, {1, 1}} {
		q := newLookups(x.workers)
		for i := range 10 {
			q.tooSlow(fmt.Sprint("slow", i))
		}
		q.put("fresh")
		for i := range x.slow {
			if name, slow, ok := q.get(); !ok || !slow || name != fmt.Sprint("slow", i) {
				t.Fatalf("%d workers: got %q, slow %v", x.workers, name, slow)
			}
		}
		if name, slow, ok := q.get(); !ok || slow || name != "fresh" {
			t.Fatalf("%d workers: got %q, slow %v", x.workers, name, slow)
		}
		q.done()
		if name, slow, _ := q.get(); !slow || name != fmt.Sprint("slow", x.slow) {
			t.Errorf("%d workers: after one was done got %q, slow %v", x.workers, name, slow)
		}
		q.close()
		if _, _, ok := q.get(); ok {
			t.Errorf("%d workers: got a domain after the end", x.workers)
		}
	}
}
