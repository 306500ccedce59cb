package main

import (
	"bytes"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

// The command draws what was used beside the share, and says why a day did not count.
func TestWarmupShowsPlanTodayAndWhyADayDidNotCount(t *testing.T) {
	t.Parallel()
	w := control.Warmup{
		Address: "192.0.2.26", Queue: "google", Plan: "standard", Shares: []int{480, 672, 936}, Day: 2, Share: 672, Used: 168, HeldDays: 1,
		Days: []control.WarmupDay{
			{Date: "2026-11-27", Day: 1, Share: 480, Used: 480, Accepted: 478, HardBounces: 2},
			{Date: "2026-11-28", Day: 2, Share: 672, Used: 336, Accepted: 300, Refused: 36, Verdict: "36 of 336 refused for reputation or volume, more than 5%", Bad: true},
			{Date: "2026-11-29", Day: 2, Share: 672, Used: 168, Accepted: 168, Complaints: 1},
		},
	}
	var b bytes.Buffer
	printWarmup(&b, &w)
	const want = `192.0.2.26 to google, plan standard: day 2 of 3: 168 of 672 recipients; 36 of 336 refused for reputation or volume, more than 5%
no complaint was ever reported by this provider, so its replies are all that is known
DATE        DAY     SHARE      USED  ACCEPTED  REFUSED  BOUNCED COMPLAINED  USED OF SHARE
2026-11-27    1       480       480       478        0        2          0  #####################
2026-11-28    2       672       336       300       36        0          0  ###############...............
                36 of 336 refused for reputation or volume, more than 5%
2026-11-29    2       672       168       168        0        0          1  #######.......................
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	printWarmup(&b, &control.Warmup{Address: "192.0.2.26", Queue: "google", Plan: "standard", Done: "2026-11-29", Reports: true})
	if got := b.String(); got != "192.0.2.26 to google, plan standard: warm since 2026-11-29\nDATE        DAY     SHARE      USED  ACCEPTED  REFUSED  BOUNCED COMPLAINED  USED OF SHARE\n" {
		t.Errorf("%s", got)
	}
}
