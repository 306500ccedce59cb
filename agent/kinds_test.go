package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/sink"
)

// TestKindsOfReceiversOverSockets drives the agent against the most telling kinds
// of package contrib/sim. It counts and takes no times: each message arrives once,
// and few connections are one too many.
func TestKindsOfReceiversOverSockets(t *testing.T) {
	t.Parallel()
	const messages = 800
	for _, k := range []struct {
		name    string
		b       sink.Behaviour
		refused int64 // connections and messages, at most
	}{
		{"limit at the banner", sink.Behaviour{ProviderConnections: 5}, 30},
		{"limit at MAIL", sink.Behaviour{ProviderConnections: 5, OverLimit: sink.AtMail}, 30},
		{"421 after 20 messages", sink.Behaviour{ProviderConnections: 10, MaxMessages: 20}, 45},
		{"close after 20 messages", sink.Behaviour{ProviderConnections: 10, MaxMessages: 20, MaxMessagesClose: true}, 45},
		{"rate", sink.Behaviour{Rate: 300, Burst: 50}, 120},
		{"refusals are punished", sink.Behaviour{ProviderConnections: 10, PenaltyEvery: 1, PenaltyBan: 100 * time.Millisecond, PenaltyForget: time.Minute}, 30},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			k.b.RTT = 5 * time.Millisecond
			s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: k.b})
			for i := range messages {
				s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
			}
			s.start()
			s.until("all are delivered", func() bool { return len(s.at("far")) >= messages && s.empty() })
			times := map[string]int{}
			for _, a := range s.at("far") {
				times[a.recipient]++
			}
			for r, n := range times {
				if n != 1 {
					t.Errorf("%s got it %d times", r, n)
				}
			}
			if len(times) != messages {
				t.Errorf("%d of %d arrived", len(times), messages)
			}
			var refused int64
			for _, h := range s.net.Stats().Hosts {
				if h.Provider == "far" {
					refused += h.RefusedConnections() + h.Refused[sink.CauseRate]
				}
			}
			t.Logf("%d refused", refused)
			if refused > k.refused {
				t.Errorf("%d refused, want at most %d of %d messages", refused, k.refused, messages)
			}
		})
	}
}
