package agent

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/sim"
)

// kind is a kind of receiver of package sim, or several, over sockets.
type kind struct {
	name     string
	like     string // a pattern for the names in package sim; "": the name itself
	b        sink.Behaviour
	hosts    int // 1 if not given
	config   func(*config.Config)
	trouble  func(*play) // before the agent starts
	script   func(*play) // while the mail flows
	messages int         // to begin with; 0: messages
	refused  int64       // connections and messages, at most
	repeated int         // messages, at most: a connection that is cut leaves one in doubt
	check    func(*play) // when all has arrived
}

// play is one run against a kind.
type play struct {
	*stage
	sent int
}

func (p *play) send(n int) {
	for range n {
		p.stage.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", p.sent))
		p.sent++
	}
}

// change alters the receiver, or one host of it.
func (p *play) change(name string, f func(*sink.Behaviour)) {
	p.t.Helper()
	if err := p.net.Change(name, f); err != nil {
		p.t.Fatal(err)
	}
}

// troubled are the first hosts of four with another behaviour.
func troubled(n int, f func(*sink.Behaviour)) func(*play) {
	return func(p *play) {
		for i := range n {
			p.change(fmt.Sprintf("mx%d.far.test", i+1), f)
		}
	}
}

// full takes the only place at the first hosts, so that they refuse everybody.
func full(n int) func(*play) {
	return func(p *play) {
		troubled(n, func(b *sink.Behaviour) { b.HostConnections = 1 })(p)
		for i := range n {
			h, _ := p.far().Host(fmt.Sprintf("mx%d.far.test", i+1))
			c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(h.Addr), p.net.Port()).String())
			if err != nil {
				p.t.Fatal(err)
			}
			p.t.Cleanup(func() { c.Close() })
			p.until("the place is taken", func() bool { h, _ := p.far().Host(h.Host); return h.Open == 1 })
		}
	}
}

func (p *play) far() *sink.Stats { st := p.net.Stats(); return &st }

func (p *play) open() int { st := p.far().Provider("far"); return st.Open }

// pace is what the controller keeps to; 0: there is none.
func (p *play) pace() float64 {
	for _, x := range p.status().Sites {
		if x.Waiting+x.Sessions+x.Opening > 0 {
			return x.Pace
		}
	}
	return 0
}

// arrived waits for so many messages.
func (p *play) arrived(n int) {
	p.until(fmt.Sprint(n, " have arrived"), func() bool {
		times := map[string]int{}
		for _, a := range p.at("far") {
			times[a.recipient]++
		}
		return len(times) >= n
	})
}

const messages = 800 // to begin with

// kinds are in the order of package sim's. Round trips are short and messages few:
// that growth and rest are well chosen is shown there.
var kinds = []kind{
	{name: "limit of 5", like: `limit of \d+(, fast|, slow)?|client 20, server 5`, b: sink.Behaviour{ProviderConnections: 5}, refused: 30},
	{name: "limit told at MAIL", b: sink.Behaviour{ProviderConnections: 5, OverLimit: sink.AtMail}, refused: 30},
	{name: "limit told after the dot", b: sink.Behaviour{ProviderConnections: 10, OverLimit: sink.AtDot}, refused: 45},
	{name: "slots freed 60 ms late", like: "(5 hosts of 1, )?slots freed .* late", b: sink.Behaviour{ProviderConnections: 10, ReleaseLag: 60 * time.Millisecond},
		config: func(c *config.Config) { c.General.MaxMessagesPerConnection = 50 }, refused: 60},
	{name: "slower with load", b: sink.Behaviour{AcceptTime: 40 * time.Millisecond, Capacity: 4}, messages: messages / 2, config: many, check: fewAtOnce},
	{name: "one message at a time", b: sink.Behaviour{AcceptTime: 10 * time.Millisecond, Capacity: 1}, messages: messages / 2, config: many, check: fewAtOnce},
	{name: "1 message a connection", b: sink.Behaviour{ProviderConnections: 20, MaxMessages: 1, MaxMessagesClose: true}, refused: 60},
	// No connection takes the place of another: a busy receiver counts the old one until it
	// has read its QUIT, which the agent does not wait for longer than smtp's quitWait.
	{name: "our own ceiling of 7", config: func(c *config.Config) {
		c.General.MaxSessions, c.General.MaxMessagesPerConnection = 7, 2*messages
	},
		check: func(p *play) {
			if st := p.far().Provider("far"); st.Peak > 7 {
				p.t.Errorf("%d sessions at once", st.Peak)
			}
		}},
	{name: "300 messages/s", like: `\d+ messages?/s(, fast)?`, b: sink.Behaviour{Rate: 300, Burst: 50}, refused: 200},
	{name: "100 messages/s and host", like: `\d+ messages/s and host`, b: sink.Behaviour{Rate: 100, Burst: 50, RatePerHost: true}, hosts: 4, refused: 120},
	{name: "100 messages/s and host, cut", like: `\d+ messages/s and host, cut, lag .*`, hosts: 4, refused: 120,
		b: sink.Behaviour{Rate: 100, Burst: 50, RatePerHost: true, HostConnections: 3, ReleaseLag: 60 * time.Millisecond,
			Say: map[sink.Cause]string{sink.CauseRate: "421 4.7.0 Too fast, try again later"}}},
	{name: "300 messages/s, 10 connections", like: `\d+ messages/s, \d+ connections`, b: sink.Behaviour{Rate: 300, Burst: 50, ProviderConnections: 10}, refused: 120},
	{name: "8% too fast by chance", like: `\d+% too fast by chance.*`, b: sink.Behaviour{TempShare: 0.08, TempTimes: 1,
		Say: map[sink.Cause]string{sink.CauseTemp: "450 4.7.1 Too fast, try again later"}},
		check: func(p *play) {
			if st := p.far().Provider("far"); st.Refused[sink.CauseTemp] == 0 {
				p.t.Error("nothing was refused")
			}
		}},
	{name: "quota", b: sink.Behaviour{Rate: 1e-6, Burst: messages / 2,
		Say: map[sink.Cause]string{sink.CauseRate: "450 4.7.1 You have sent too many messages today"}},
		script: func(p *play) {
			p.arrived(messages / 2)
			p.until("little is tried", func() bool { return 0 < p.pace() && p.pace() < 10 })
			p.change("far", func(b *sink.Behaviour) { b.Rate = 0 })
		}, refused: 200},
	{name: "rate lifted", b: sink.Behaviour{Rate: 20, Burst: 10}, // which a slow machine exceeds, too
		script: func(p *play) {
			p.feed("it sends no faster", func() bool { return p.pace() > 0 })
			p.change("far", func(b *sink.Behaviour) { b.Rate = 0 })
		}, refused: 120},
	{name: "1 of 4 hosts dead", hosts: 4, config: shortLives, trouble: troubled(1, func(b *sink.Behaviour) { b.Down = true }), check: passedBy(1)},
	{name: "3 of 4 hosts dead", hosts: 4, config: shortLives, trouble: troubled(3, func(b *sink.Behaviour) { b.Down = true }), check: passedBy(3)},
	{name: "1 of 4 hosts refuses", hosts: 4, config: shortLives, trouble: full(1), refused: 12},
	{name: "2 of 4 hosts refuse", hosts: 4, config: shortLives, trouble: full(2), refused: 12},
	{name: "1 of 4 hosts hangs", hosts: 4, trouble: troubled(1, func(b *sink.Behaviour) { b.HangConnect = 1 }), check: passedBy(1)},
	{name: "3 of 4 hosts hang", hosts: 4, trouble: troubled(3, func(b *sink.Behaviour) { b.HangConnect = 1 }), check: passedBy(3)},
	{name: "1 of 4 hosts answers no SYN", like: "1 of 4 hosts hangs", hosts: 4, trouble: troubled(1, func(b *sink.Behaviour) { b.Unreachable = true }), check: passedBy(1)},
	{name: "1 of 4 hosts throttles", like: "1 of 4 hosts refuses", hosts: 4, trouble: troubled(1, func(b *sink.Behaviour) { b.Rate, b.Burst = 20, 5 }), messages: messages / 2, refused: 60},
	{name: "outage", like: "outage of .*",
		script: func(p *play) {
			p.arrived(messages / 4)
			p.change("far", func(b *sink.Behaviour) { b.Down = true })
			p.until("its mail waits", func() bool { return p.status().Active == 0 })
			p.change("far", func(b *sink.Behaviour) { b.Down = false })
		}, repeated: 20},
	{name: "limit of 10, refusal bans 100ms", like: `limit of \d+, refusal bans .*`, refused: 30,
		b: sink.Behaviour{ProviderConnections: 10, PenaltyEvery: 1, PenaltyBan: 100 * time.Millisecond, PenaltyForget: time.Minute}},
	{name: "refusal takes 1 of 10", like: `refusal takes \d of \d+`, refused: 30,
		b: sink.Behaviour{ProviderConnections: 10, PenaltyEvery: 1, PenaltyShrink: 1, PenaltyForget: time.Minute}},
	{name: "limit 8, 2, 8", like: `limit \d+, \d+( after a probe)?, \d+`, b: sink.Behaviour{ProviderConnections: 8},
		config: func(c *config.Config) { c.General.MaxMessagesPerConnection = 20 },
		script: func(p *play) {
			p.arrived(messages / 2)
			p.change("far", func(b *sink.Behaviour) { b.ProviderConnections = 2 })
			p.feed("there are as few sessions as are allowed", func() bool { return p.open() <= 2 })
			p.change("far", func(b *sink.Behaviour) { b.ProviderConnections = 8 })
			p.feed("it is found that more are allowed again", func() bool { return p.open() > 4 })
		}, refused: 100},
	{name: "refuses all for a time", like: "refuses all .*", b: sink.Behaviour{ProviderConnections: 8, Say: map[sink.Cause]string{"trouble": "421 4.3.2 too many connections"}},
		config: func(c *config.Config) { c.General.MaxMessagesPerConnection = 20 },
		script: func(p *play) {
			p.arrived(messages / 2)
			p.change("far", func(b *sink.Behaviour) { b.Trouble = "banner" })
			p.until("no session is left", func() bool { return p.open() == 0 })
			p.change("far", func(b *sink.Behaviour) { b.Trouble = "" })
			p.feed("there are as many sessions as before", func() bool { return p.open() > 5 })
		}, refused: 100},
	{name: "421 after 20 messages", like: `421 after \d+ messages`, b: sink.Behaviour{ProviderConnections: 10, MaxMessages: 20}, refused: 45},
	{name: "close after 20 messages", like: `close after \d+ messages`, b: sink.Behaviour{ProviderConnections: 10, MaxMessages: 20, MaxMessagesClose: true}, refused: 45},
	{name: "greylisting", b: sink.Behaviour{ProviderConnections: 10, Greylist: 50 * time.Millisecond}, refused: 30,
		check: func(p *play) {
			if st := p.far().Provider("far"); st.Refused[sink.CauseGreylist] != int64(p.sent) {
				p.t.Errorf("%d of %d messages greylisted, want each once", st.Refused[sink.CauseGreylist], p.sent)
			}
		}},
}

// elsewhere are kinds of package sim that another test drives over sockets, or none.
var elsewhere = map[string]string{
	`\d+ connections a minute`: "nothing is learned of such a number, and the receivers here do not count it",
	`suspension`:               "TestSuspensionThatAReceiverAsksForIsKept",
	`silent while full`:        "TestSilenceBesideSessionsThatAreUpIsARefusal of agent/queue: the receivers here answer who is one too many",
	`port closed while full`:   "TestPortThatIsClosedWhileSessionsAreUpIsARefusal of agent/elastic: the receivers here close no port for a limit",
	`\d source.*`:              "the receivers here do not tell source addresses apart",
	`host sends every .*`:      "TestHostKeepsItsRoom of contrib/e2e, with a Postfix",
}

// many sessions are allowed.
func many(c *config.Config) { c.General.MaxSessions = 200 }

// fewAtOnce checks that growth ended where it did not pay; to double the sessions
// again and again would have come to 128.
func fewAtOnce(p *play) {
	if st := p.far().Provider("far"); st.Peak > 64 {
		p.t.Errorf("%d sessions at once at a receiver that is not faster for them", st.Peak)
	}
}

// shortLives makes many connections of few messages.
func shortLives(c *config.Config) { c.General.MaxMessagesPerConnection = 10 }

// feed sends more mail until a condition holds.
func (p *play) feed(what string, holds func() bool) {
	p.t.Helper()
	p.until(what, func() bool {
		if st := p.status(); st.Waiting < messages/4 {
			p.send(messages / 4)
		}
		return holds()
	})
}

// passedBy checks that few connects went to the first hosts, where none came up.
func passedBy(n int) func(*play) {
	return func(p *play) {
		for i := range n {
			name := fmt.Sprintf("mx%d.far.test", i+1)
			h, _ := p.far().Host(name)
			connects := int64(strings.Count(p.log.String(), "msg=connect relay="+name)) + h.Connections
			p.t.Logf("%d connects to %s", connects, name)
			if connects > 8 {
				p.t.Errorf("%d connects to %s", connects, name)
			}
		}
	}
}

// TestKindsOfReceiversOverSockets drives the agent against the kinds of package
// contrib/sim. It counts and takes no times: each message arrives once, few
// connections are one too many, and the mail goes where it is taken.
//
// The runs wait more than they work, so more go side by side than t.Parallel would
// let.
func TestKindsOfReceiversOverSockets(t *testing.T) {
	t.Parallel()
	var runs sync.WaitGroup
	room := make(chan struct{}, 12)
	for _, k := range kinds {
		runs.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			t.Run(k.name, func(t *testing.T) { k.run(t) })
		})
	}
	runs.Wait()
}

func (k *kind) run(t *testing.T) {
	b := k.b
	b.RTT = 5 * time.Millisecond
	p := &play{stage: newStage(t, k.config, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: b, Hosts: k.hosts})}
	p.send(cmp.Or(k.messages, messages))
	if k.trouble != nil {
		k.trouble(p)
	}
	p.start()
	if k.script != nil {
		k.script(p)
	}
	p.arrived(p.sent)
	p.until("the queue is empty", p.empty)
	times := map[string]int{}
	repeated := 0
	for _, a := range p.at("far") {
		if times[a.recipient]++; times[a.recipient] > 1 {
			repeated++
		}
	}
	if repeated > k.repeated {
		t.Errorf("%d messages came again", repeated)
	}
	if len(times) != p.sent {
		t.Errorf("%d of %d arrived", len(times), p.sent)
	}
	st := p.far().Provider("far")
	refused := st.RefusedConnections() + st.Refused[sink.CauseRate]
	t.Logf("%d of %d refused", refused, p.sent)
	if refused > k.refused {
		t.Errorf("%d refused, want at most %d of %d messages", refused, k.refused, p.sent)
	}
	if k.check != nil {
		k.check(p)
	}
}

// Every kind of package sim is driven over sockets, too, or it is said why not, and
// the two lists do not part unnoticed.
func TestKindsOfTheSimulationAreThoseOverSockets(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, k := range kinds {
		used[k.pattern()] = false
	}
	for pattern := range elsewhere {
		used[pattern] = false
	}
	for _, k := range sim.Kinds() {
		found := false
		for pattern := range used {
			if regexp.MustCompile("^(" + pattern + ")$").MatchString(k.Name) {
				used[pattern], found = true, true
			}
		}
		if !found {
			t.Errorf("%q is only simulated", k.Name)
		}
	}
	for pattern, ok := range used {
		if !ok {
			t.Errorf("no kind of the simulation is like %q", pattern)
		}
	}
}

func (k *kind) pattern() string {
	if k.like != "" {
		return k.like
	}
	return regexp.QuoteMeta(k.name)
}
