//go:build !race

// A simulation is one goroutine: the race detector has nothing to see in it, and makes it
// ten times as slow.

package sim

import "testing"

// gaveWay are the kinds at which the controller by slots does not reach a mark of the
// first one, and why.
var gaveWay = map[string]string{
	"1 message/s":                         "the pace is raised in steps of messages, and of one a second few are between two refusals: 2.4% refused, not 2%",
	"2 of 4 hosts refuse":                 "two hosts that refuse from the start look like a small limit of the site, which grows by probes then: full after 30 s, not 8",
	"limit of 10, refusal bans 1s":        "whether slots are freed late is tried four times, each a refusal: 0.17% refused, not 0.1%",
	"limit of 10, refusal bans 5s":        "the same: 0.18% refused, not 0.1%",
	"limit of 10, refusal bans 30s":       "the same, and each makes the ban longer: 15 minutes of the 40 pass until it is over",
	"limit of 20, refusal bans 30s":       "the same",
	"refusal takes 1 of 10":               "a limit that falls with each refusal is not told from one that was lowered, and is probed again and again",
	"refusal takes 3 of 20":               "the same",
	"limit told after the dot":            "a probe makes the receiver refuse a message of each session: 84%, not 85%; 2% refused",
	"host sends every 300ms, limit of 10": "the limit is found so much too low as the host then holds more than on average",
	"host sends every 20s, limit of 10":   "probes take the host's places each 2 minutes: 1.5% of its connections refused, not 1%",
}

func TestKindsBySlots(t *testing.T) {
	t.Parallel()
	for _, k := range Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			k.Sender = Slots
			row := NewRow(k, 1, 2)
			why := gaveWay[k.Name]
			if why != "" && len(row.Misses) == 0 {
				t.Errorf("all marks are reached, though %q", why)
			}
			for _, m := range row.Misses {
				if why == "" {
					t.Error(m)
				}
			}
		})
	}
}
