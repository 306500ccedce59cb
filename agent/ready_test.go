package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// A lone message to a destination with a session on the ready list leaves over it:
// no connection is made for it, whatever else is being sent and to whom.
func TestLoneMessageTakesTheWarmSession(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "idle", Domains: []string{"idle.test"}},
		sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{ProviderConnections: 2}},
		sink.Provider{Name: "hanging", Domains: []string{"d*.hanging.test"}, Behaviour: sink.Behaviour{HangConnect: 1}})
	s.start()
	for i := range 20 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@busy.test", i), fmt.Sprintf("u@d%d.hanging.test", i))
	}
	const n, warm = 20, 10 * time.Second // a session that has nothing to do for longer is ended
	var before time.Time
	most := int64(0)
	for i := range n {
		sent := time.Now()
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@idle.test", i))
		s.until("delivered", func() bool { return len(s.at("idle")) == i+1 })
		if time.Since(before) > warm { // so it may have been by now, on a slow machine
			most++
		}
		before = sent
		s.until("a session is ready", func() bool {
			return time.Since(sent) > warm || slices.ContainsFunc(s.status().Sites, func(x control.Site) bool {
				return strings.Contains(x.Name, "idle") && x.Ready == 1
			})
		})
	}
	if k := connections(s.net.Stats(), "idle"); k > most {
		t.Errorf("%d connections for %d messages, one after the other, want at most %d", k, n, most)
	}
}
