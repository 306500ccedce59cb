package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// threePools are three pools of two addresses in each family, four streams, and two queues: one
// that spreads its recipients, and one of a provider that blocks who sends for "bad@". The last
// IPv4 address is nobody's at first.
const threePools = `
[[pool]]
name = "news"
addresses = ["127.0.31.1", "127.0.31.2", "fd00:31::1", "fd00:31:0:1::2"]
weights = [1, 3, 3, 1]

[[pool]]
name = "shop"
addresses = ["127.0.32.1", "127.0.32.2", "fd00:32::1", "fd00:32:0:1::2"]

[[pool]]
name = "spare"
addresses = ["127.0.33.1", "192.0.2.177", "fd00:33::1", "fd00:33:0:1::2"]
weights = [1, 9, 1, 1]

[[stream]]
name = "news"
streams = ["news-*"]
pool = "news"

[[stream]]
name = "shop"
pool = "shop"

[[queue]]
name = "big"
domains = ["big.example", "bigsix.example"]
spread = "recipient"

[[queue]]
name = "strict"
mx = ["*.strict.test"]

[[reply]]
name = "blocked"
mx = ["*.strict.test"]
text = "on our block list"
class = "reputation"
action = "suspend"
for = "1h"
after = 1
within = "1h"

[[milter.rule]]
name = "a"
action = "divert"
sender = ["a@lab.test", "bad@lab.test"]
stream = "news-1"

[[milter.rule]]
name = "b"
action = "divert"
sender = ["b@lab.test"]
stream = "shop"

[[milter.rule]]
name = "c"
action = "divert"
sender = ["c@lab.test"]
stream = "other"
pool = "spare"

[[milter.rule]]
name = "d"
action = "divert"
sender = ["d@lab.test"]
stream = "plain"
`

// leaving are the addresses of the pool that a sender's mail leaves from, by what they begin with.
var leaving = map[string][]string{
	"a@lab.test": {"127.0.31.", "fd00:31:"}, "b@lab.test": {"127.0.32.", "fd00:32:"},
	"c@lab.test": {"127.0.33.1", "192.0.2.177", "fd00:33:"}, "d@lab.test": {"127.0.32.", "fd00:32:"},
}

// Three pools and four streams behind a real Postfix: every recipient is called from one address
// of the pool that its rule, stream or queue names, over greylisting, a restart and other weights;
// recipients of a domain that is spread have the addresses as the weights say; an address that is
// not this host's stops nothing, and is used once it is there; and of one that a provider blocks
// nothing moves.
func TestPoolsBehindPostfix(t *testing.T) {
	t.Parallel()
	const (
		domains = 20
		many    = 2000 // recipients of each domain that is spread
		atOnce  = 50
	)
	for pool := range 3 {
		addAddress(t, fmt.Sprintf("fd00:%d::1", 31+pool))
		addAddress(t, fmt.Sprintf("fd00:%d:0:1::2", 31+pool))
	}
	grey := sink.Behaviour{Greylist: time.Millisecond}
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"d*.example"}, Behaviour: grey},
			{Name: "big", Domains: []string{"big.example"}, Behaviour: grey},
			{Name: "strict", Domains: []string{"strict.example"}, Behaviour: sink.Behaviour{
				Trouble: sink.TroubleRcpt, Senders: "bad@", Say: map[sink.Cause]string{sink.CauseTrouble: "451 4.7.1 your address is on our block list"}}},
		},
		beforeDaemons: func(r *room) {
			six := sink.Provider{Name: "six", Domains: []string{"s*.example", "bigsix.example"}, Behaviour: grey,
				Host: []sink.Host{{Name: "mx.six.test", Addr: netip.IPv6Loopback()}}}
			if err := r.Internet.Add(six); err != nil {
				t.Fatal(err)
			}
		},
		millrace: lab.MillraceOptions{Set: map[string]string{
			"general.pool": `"shop"`, "general.retry": `["1h"]`, // what is deferred is flushed
			"agent.protocols": `["ipv4", "ipv6"]`, "agent.allow_destinations": `["127.0.0.0/8", "::1/128"]`,
		}, Extra: threePools},
	})
	sent := 0
	send := func(from string, to ...string) {
		r.send(from, to, news(fmt.Sprintf("m%d", sent)))
		sent += len(to)
	}
	for i := range domains {
		for from := range leaving {
			for _, domain := range []string{"d", "s"} {
				send(from, fmt.Sprintf("%c@%s%d.example", from[0], domain, i))
			}
		}
	}
	for i := 0; i < many; i += atOnce {
		for _, domain := range []string{"big.example", "bigsix.example"} {
			var to []string
			for k := range atOnce {
				to = append(to, fmt.Sprintf("u%d@%s", i+k, domain))
			}
			send("a@lab.test", to...)
		}
	}
	deferred := func() bool {
		st, err := control.NewClient(r.Millrace.Control()).Status(r.ctx)
		return err == nil && !st.Loading && st.Deferred == sent
	}
	r.until("every recipient was tried", deferred)
	r.stop(r.Millrace.Agent)
	first := r.froms() // what the first try of each recipient left from
	if len(first) != sent {
		t.Fatalf("the journal has it of %d recipients, %d were tried", len(first), sent)
	}
	config := read(t, r.Millrace.Config())
	changed := strings.NewReplacer("weights = [1, 3, 3, 1]", "weights = [7, 1, 1, 7]", "weights = [1, 9, 1, 1]", "weights = [1, 9, 1, 5]").Replace(config)
	if changed == config {
		t.Fatalf("no weights in\n%s", config)
	}
	if err := os.WriteFile(r.Millrace.Config(), []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	r.start(r.Millrace.Agent)
	r.until("all is read", deferred)
	r.verb("flush", "--all")
	r.until("all arrive", func() bool { return len(r.all()) >= sent })
	r.rest()

	spread := make(map[string]int)
	for _, a := range r.all() {
		from := a.client.String()
		if !a.ours() {
			t.Errorf("%s went by Postfix", a.recipient)
		}
		if !strings.Contains(first[a.recipient]+" ", " "+from+" ") {
			t.Errorf("%s arrived from %s, and was tried from %s", a.recipient, from, first[a.recipient])
		}
		if !begins(from, leaving[a.sender]) || from == "192.0.2.177" {
			t.Errorf("%s of %s arrived from %s", a.recipient, a.sender, from)
		}
		if strings.Contains(a.recipient, "@big") {
			spread[from]++
		}
	}
	if n := len(r.all()); n != sent {
		t.Errorf("%d copies of %d arrived", n, sent)
	}
	for addr, want := range map[string]int{"127.0.31.1": many / 4, "127.0.31.2": 3 * many / 4, "fd00:31::1": 3 * many / 4, "fd00:31:0:1::2": many / 4} {
		if got := spread[addr]; got < want-many*3/100 || got > want+many*3/100 {
			t.Errorf("%d of %d recipients from %s, want %d", got, many, addr, want)
		}
	}

	addAddress(t, "192.0.2.177")
	i := 0
	r.until("mail leaves from the address that has come", func() bool {
		i++
		send("c@lab.test", fmt.Sprintf("c@dd%d.example", i))
		r.verb("flush", "--all")
		for _, a := range r.all() {
			if a.client.String() == "192.0.2.177" {
				return true
			}
		}
		return false
	})

	// A provider blocks an address. What leaves from it waits there, and nothing else does.
	r.send("bad@lab.test", []string{"x@strict.example"}, news("bad"))
	blocked := ""
	r.until("the address is suspended at the provider", func() bool {
		s, err := control.NewClient(r.Millrace.Control()).Standing(r.ctx)
		if err == nil && len(s.Effects) == 1 {
			blocked = s.Effects[0].Address
		}
		return blocked != ""
	})
	r.send("a@lab.test", []string{"y@strict.example"}, news("waits"))
	r.send("b@lab.test", []string{"z@strict.example"}, news("goes"))
	r.until("mail of another pool arrives there", func() bool { return len(r.copies("goes")) == 1 })
	r.until("what leaves from it waits", func() bool {
		return strings.Contains(r.verb("queue", "--domain", "strict.example"), "y@strict.example")
	})
	if n := len(r.copies("waits")) + len(r.copies("bad")); n != 0 {
		t.Errorf("%d arrived from an address that is blocked (%s), or moved", n, blocked)
	}
	if why := r.verb("why", "strict:"+blocked); !strings.Contains(why, "suspended") || !strings.Contains(why, blocked) {
		t.Errorf("millrace why: %s", why)
	}
}

// addAddress gives the room an address for the time of a test.
func addAddress(t *testing.T, addr string) {
	t.Helper()
	remove, err := lab.AddAddress(netip.MustParseAddr(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
}

// froms are what recipients in the spool leave from, by their addresses.
func (r *room) froms() map[string]string {
	r.t.Helper()
	s, err := spool.OpenReader(r.Millrace.Spool())
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Close()
	froms := make(map[string]string)
	if err := s.Messages(func(m *spool.Message) error {
		for i, st := range m.States {
			if st.From != "" {
				froms[m.Envelope.Recipients[i].Address] = st.From
			}
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return froms
}

func begins(s string, with []string) bool {
	for _, x := range with {
		if strings.HasPrefix(s, x) {
			return true
		}
	}
	return false
}
