package agent

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// zoneThatChanges is a time zone whose clock shows a time of the day now, and is set forward or
// back by an hour at a moment (RFC 9636 section 3).
func zoneThatChanges(t *testing.T, hour, minute int, at time.Time, by time.Duration) *time.Location {
	t.Helper()
	now := time.Now().UTC()
	offset := time.Duration(hour*60+minute-now.Hour()*60-now.Minute()) * time.Minute
	b := append([]byte("TZif"), make([]byte, 16)...)
	for _, n := range []uint32{0, 0, 0, 1, 2, 2} { // one change between two types of time, of one name
		b = binary.BigEndian.AppendUint32(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(at.Unix()))
	b = append(b, 1)
	for _, o := range []time.Duration{offset, offset + by} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(int32(o/time.Second))), 0, 0)
	}
	zone, err := time.LoadLocationFromTZData("lab", append(b, 'x', 0))
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

// An agent that is restarted in the middle of a day of 23 or 25 hours goes on with the count of
// that day, and begins a new one when the clock on the wall has passed midnight, if by being set.
func TestQuotaOfADayWhoseClockIsSet(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		hour, minute int
		by           time.Duration
		used         int // of the quota, by 20 that were sent before the clock is set
	}{
		"back at noon":        {12, 0, -time.Hour, 20},
		"forward at noon":     {12, 0, time.Hour, 20},
		"forward at midnight": {23, 30, time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := time.Now().Add(2 * time.Second)
			zone := zoneThatChanges(t, x.hour, x.minute, at, x.by)
			s := newStage(t, func(c *config.Config) {
				c.Streams = []config.Stream{{Name: "few", Streams: []string{"few"}, Quotas: []config.Quota{{N: 30, Day: true}}, Location: zone}}
			}, sink.Provider{Name: "far", Domains: []string{"d*.test"}})
			send := func(user string) {
				for i := range 20 {
					s.send(spool.Envelope{Sender: "n@news.test", Stream: "few"}, letter, fmt.Sprintf("%s%d@d%d.test", user, i, i%5))
				}
			}
			s.start()
			send("a")
			s.until("the first have gone", func() bool { return len(s.at("far")) == 20 && s.empty() })
			late := time.Now().After(at) // on a machine with much to do: then some are of the next day
			s.stop()
			s.until("the clock is set", func() bool { return time.Now().After(at) })
			s.start()
			used := s.agent.quotas.List(time.Now())[0].Used
			if used != x.used && !late {
				t.Errorf("%d of the quota are used, want %d", used, x.used)
			}
			want := 20 + min(20, 30-used)
			send("b")
			s.until("what may go has gone", func() bool {
				w, _, active, _ := s.agent.queue.Counts()
				return len(s.at("far")) == want && w == 40-want && active == 0 && s.agent.queue.Limited() == w
			})
		})
	}
}
