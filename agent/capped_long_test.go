//go:build long

package agent

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// Over sockets, at a receiver whose own time bounds the rate: what a stream with a large backlog
// and a limit leaves to the others is all but the little that it may send itself. Rounds with and
// without it take turns, and the medians are compared. The machine must be quiet.
func TestCappedStreamCostsTheOthersNothingOverSockets(t *testing.T) {
	const (
		sessions = 10
		accept   = 50 * time.Millisecond // so 200 messages a second
		others   = 3000
		capped   = 2000
		rounds   = 3
	)
	took := make(map[bool][]time.Duration)
	for round := range 2 * rounds {
		with := round%2 == 1
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := newStage(t, func(c *config.Config) {
				c.General.MaxSessions = sessions
				c.Streams = []config.Stream{{Name: "capped", Streams: []string{"capped"}, MaxMessageRate: 1}}
			}, sink.Provider{Name: "far", Domains: []string{"d*.test"}, Behaviour: sink.Behaviour{AcceptTime: accept}})
			if with {
				for i := range capped {
					s.send(spool.Envelope{Sender: "n@news.test", Stream: "capped"}, letter, fmt.Sprintf("c%d@d%d.test", i, i%20))
				}
			}
			for i := range others {
				s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, fmt.Sprintf("o%d@d%d.test", i, i%20))
			}
			sent := func() (n int) {
				for _, a := range s.at("far") {
					if a.recipient[0] == 'o' {
						n++
					}
				}
				return n
			}
			s.start()
			s.until("it is at speed", func() bool { return sent() >= others/3 })
			began, first := time.Now(), sent()
			s.until("nearly all has gone", func() bool { return sent() >= others-2*sessions })
			per := time.Since(began) / time.Duration(sent()-first)
			took[with] = append(took[with], per)
			t.Logf("with a capped stream %v: %v for each message of the others", with, per)
		})
	}
	for _, list := range took {
		slices.Sort(list)
	}
	if a, b := took[false][rounds/2], took[true][rounds/2]; float64(b) > 1.02*float64(a) {
		t.Errorf("%v for each message of the others, and %v beside a capped stream", a, b)
	}
}
