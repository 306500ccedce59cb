package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const (
	warmClient = "127.0.7.1"
	coldClient = "127.0.7.2"
	// firstHour is what a plan of 1000 a day lets go at once: an hour's part, and one for the
	// fraction.
	firstHour = 1000/24 + 1
)

// warmingStage has a pool with a warm address and a cold one, whose share is 1000 a day.
func warmingStage(t *testing.T, overflow config.Overflow, change func(*config.Config)) *stage {
	return newStage(t, func(c *config.Config) {
		c.Pools = []config.Pool{{Name: "news", Addresses: addresses(warmClient, coldClient), Warmup: config.PoolWarmup{Each: []string{"", "own"}}, Overflow: overflow}}
		c.Warmups = []config.Warmup{{Name: "own", Days: config.Days{1000, 1000, 1000}}}
		c.General.Pool = "news"
		if change != nil {
			change(c)
		}
	}, sink.Provider{Name: "far", Domains: []string{"d*.test"}})
}

func (s *stage) sendEach(from, to int) {
	for i := from; i < to; i++ {
		s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, fmt.Sprintf("a@d%d.test", i))
	}
}

// from counts what arrived from an address.
func (s *stage) from(client string) (n int) {
	for _, a := range s.at("far") {
		if a.client.String() == client {
			n++
		}
	}
	return n
}

// taken is what a course counts on all of its days.
func taken(w control.Warmup) (n int) {
	for _, d := range w.Days {
		n += d.Accepted
	}
	return n
}

// room is how much a cold address may have sent since a moment: once an hour's part, or again
// after a midnight, and what has come back since.
func room(since time.Time) int {
	n := firstHour + 1 + int(time.Since(since).Seconds()*1000/86400)
	if time.Now().Format(time.DateOnly) != since.Format(time.DateOnly) {
		n *= 2
	}
	return n
}

// Over sockets: a cold address sends its share and no more, also after a restart, the warm one the
// rest at once; commands and files tell; and without the keys it is an address like others.
func TestColdAddressSendsItsShareOnly(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := warmingStage(t, config.OverflowWarm, nil)
	s.start()
	s.sendEach(0, 200)
	s.until("all arrive", func() bool { return len(s.at("far")) == 200 && s.empty() })
	cold := s.from(coldClient)
	if cold < firstHour-1 || cold > room(began) || s.from(warmClient) != 200-cold {
		t.Errorf("%d of 200 from the cold address, whose share is %d now", cold, room(began))
	}
	list := s.status().Warmups
	if len(list) != 1 || list[0].Address != coldClient || list[0].Queue != "general" || list[0].Share != 1000 || taken(list[0]) != cold {
		t.Errorf("told: %+v", list)
	}
	s.stop()
	for _, name := range []string{"warmup.json", "warmup-counts.json"} {
		if b, err := os.ReadFile(filepath.Join(s.config.Agent.StateDirectory, name)); err != nil || !strings.Contains(string(b), coldClient) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	s.start()
	s.sendEach(200, 300)
	s.until("all arrive after a restart", func() bool { return len(s.at("far")) == 300 && s.empty() })
	if n := s.from(coldClient); n > room(began) {
		t.Errorf("%d from the cold address after a restart", n)
	}
	cold = s.from(coldClient)
	next := *s.config
	next.Pools = []config.Pool{{Name: "news", Addresses: addresses(warmClient, coldClient)}}
	next.Warmups = nil
	if err := s.agent.Reload(&next); err != nil {
		t.Fatal(err)
	}
	s.sendEach(300, 400)
	s.until("all arrive after a reload", func() bool { return len(s.at("far")) == 400 && s.empty() })
	if n := s.from(coldClient) - cold; n < 30 || len(s.status().Warmups) != 0 {
		t.Errorf("%d of 100 from an address without a plan; %+v", n, s.status().Warmups)
	}
}

// Over sockets: the host gets what a cold address has no room for, and what it had begun stays
// with it.
func TestColdAddressLeavesTheRestToTheHost(t *testing.T) {
	t.Parallel()
	began := time.Now()
	s := warmingStage(t, config.OverflowHandback, nil)
	s.start()
	s.sendEach(0, 200)
	s.until("all is gone", func() bool { return len(s.at("far"))+len(s.at("host")) == 200 && s.empty() })
	cold, warm := s.from(coldClient), s.from(warmClient)
	if cold < firstHour-1 || cold > room(began) || warm < 60 || len(s.at("host")) != 200-cold-warm {
		t.Errorf("%d from the cold address, %d from the warm one, %d to the host", cold, warm, len(s.at("host")))
	}
}

// An installation without the keys has no file of theirs.
func TestNoWarmupLeavesNoFile(t *testing.T) {
	t.Parallel()
	s := warmingStage(t, "", func(c *config.Config) { c.Pools[0].Warmup, c.Warmups = config.PoolWarmup{}, nil })
	s.start()
	s.sendEach(0, 20)
	s.until("all arrive", func() bool { return len(s.at("far")) == 20 && s.empty() })
	s.stop()
	if list, _ := filepath.Glob(filepath.Join(s.config.Agent.StateDirectory, "warmup*")); len(list) > 0 {
		t.Errorf("%v", list)
	}
	if n := s.from(coldClient); n == 0 {
		t.Error("nothing left from the second address")
	}
}

// Over sockets: what a cold address has is used by recipients that took mail before, and others
// leave from the warm one at once. With a damaged database nobody is known and nothing waits.
func TestColdAddressSendsToKnownRecipientsFirst(t *testing.T) {
	t.Parallel()
	const known, unknown = 200, 400 // their domains end there
	for _, damaged := range []bool{false, true} {
		t.Run(fmt.Sprintf("damaged %v", damaged), func(t *testing.T) {
			t.Parallel()
			s := warmingStage(t, config.OverflowWarm, keepOutcomes)
			plan, own := s.config.Pools[0].Warmup, s.config.Warmups
			s.config.Pools[0].Warmup, s.config.Warmups = config.PoolWarmup{}, nil
			s.start()
			s.sendEach(0, known)
			s.until("all arrive", func() bool { return len(s.at("far")) == known && s.empty() })
			s.until("outcomes are taken in", func() bool {
				return len(s.history(control.OutcomeQuestion{Recipient: fmt.Sprintf("a@d%d.test", known-1)})) == 1
			})
			s.stop()
			files, _ := filepath.Glob(filepath.Join(s.config.Agent.StateDirectory, "outcomes", "outcomes-*.db"))
			for _, file := range files {
				if damaged {
					if err := os.WriteFile(file, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			before := s.from(coldClient)
			s.config.Pools[0].Warmup, s.config.Warmups = plan, own
			began := time.Now()
			s.start()
			if took := func() bool { return s.agent.outcomes.Took("a@d0.test") }; damaged {
				took()
				s.until("the damage is found", func() bool { return strings.Contains(s.log.String(), "damaged") })
			} else {
				s.until("who took mail is known", took)
				// The first of them at the cold address has room kept for the others.
				i := 0
				for s.from(coldClient) == before {
					s.sendEach(i, i+1)
					i++
					s.until("it arrives", func() bool { return len(s.at("far")) == known+i })
				}
			}
			first := len(s.at("far"))
			s.sendEach(known, unknown)
			s.until("those whom nobody knows arrive", func() bool { return len(s.at("far")) == first+unknown-known && s.empty() })
			others := s.from(coldClient) - before
			s.sendEach(0, known)
			s.until("those who took mail arrive", func() bool { return len(s.at("far")) == first+unknown && s.empty() })
			all := s.from(coldClient) - before
			if all > room(began) || all < firstHour-1 {
				t.Errorf("%d from the cold address, whose share is %d", all, room(began))
			}
			const kept = 1000 / 48
			if !damaged && all-others < kept-2 {
				t.Errorf("%d to those who took mail, after %d others", all-others, others)
			}
			if damaged && others < firstHour-1 {
				t.Errorf("%d to those whom nobody knows, who are all", others)
			}
		})
	}
}
