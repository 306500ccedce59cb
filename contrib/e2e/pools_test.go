package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// threePools are three pools of two addresses each, one of which is nobody's, and four streams.
const threePools = `
[[pool]]
name = "news"
addresses = ["127.0.31.1", "127.0.31.2"]
weights = [1, 3]

[[pool]]
name = "shop"
addresses = ["127.0.32.1", "127.0.32.2"]

[[pool]]
name = "spare"
addresses = ["127.0.33.1", "192.0.2.77"]
weights = [1, 9]

[[stream]]
name = "news"
streams = ["news-*"]
pool = "news"

[[stream]]
name = "shop"
pool = "shop"

[[queue]]
name = "big"
domains = ["big.example"]
spread = "recipient"

[[milter.rule]]
name = "a"
action = "divert"
sender = ["a@lab.test"]
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

// Three pools and four streams behind a real Postfix: every recipient is called from one address
// of the pool that its rule, stream or queue names, over greylisting, a restart and other weights;
// an address that is not this host's stops nothing; and recipients of a domain that is spread have
// the addresses as the weights say.
func TestPoolsBehindPostfix(t *testing.T) {
	t.Parallel()
	const (
		domains = 30
		many    = 2000 // recipients of the domain that is spread
		atOnce  = 50
	)
	r := enter(t, setup{
		providers: []sink.Provider{
			{Name: "far", Domains: []string{"d*.example"}, Behaviour: sink.Behaviour{Greylist: 2 * time.Second}},
			{Name: "big", Domains: []string{"big.example"}, Behaviour: sink.Behaviour{Greylist: 2 * time.Second}},
		},
		millrace: lab.MillraceOptions{Set: map[string]string{"general.pool": `"shop"`, "general.retry": `["3s"]`}, Extra: threePools},
	})
	pools := map[byte]string{'a': "127.0.31.", 'b': "127.0.32.", 'c': "127.0.33.", 'd': "127.0.32."} // by sender
	sent := 0
	for i := range domains {
		for sender := range pools {
			id := fmt.Sprintf("%c%d", sender, i)
			r.send(string(sender)+"@lab.test", []string{fmt.Sprintf("%c@d%d.example", sender, i)}, news(id))
			sent++
		}
	}
	for i := range many / atOnce {
		var to []string
		for k := range atOnce {
			to = append(to, fmt.Sprintf("u%d@big.example", i*atOnce+k))
		}
		r.send("a@lab.test", to, news(fmt.Sprintf("big%d", i)))
		sent += atOnce
	}
	first := make(map[string]string) // what the first try of each recipient left from
	read1 := func() bool {
		s, err := spool.OpenReader(r.Millrace.Spool())
		if err != nil {
			return false
		}
		defer s.Close()
		err = s.Messages(func(m *spool.Message) error {
			for i, st := range m.States {
				if _, from, ok := strings.Cut(st.From, " "); ok {
					first[m.Envelope.Recipients[i].Address] = from
				}
			}
			return nil
		})
		return err == nil && len(first) == sent
	}
	r.until("every recipient was tried", read1)
	r.stop(r.Millrace.Agent)
	config := read(t, r.Millrace.Config())
	changed := strings.Replace(config, "weights = [1, 3]", "weights = [7, 1]", 1)
	if changed == config {
		t.Fatalf("no weights in\n%s", config)
	}
	if err := os.WriteFile(r.Millrace.Config(), []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	r.start(r.Millrace.Agent)
	r.until("all arrive", func() bool { return len(r.all()) >= sent })
	r.rest()

	spread := make(map[string]int)
	for _, a := range r.all() {
		from := a.client.String()
		switch {
		case !a.ours():
			t.Errorf("%s went by Postfix", a.recipient)
		case first[a.recipient] != from:
			t.Errorf("%s arrived from %s, and was tried from %s", a.recipient, from, first[a.recipient])
		case !strings.HasPrefix(from, pools[a.sender[0]]):
			t.Errorf("%s of %s arrived from %s", a.recipient, a.sender, from)
		}
		if a.provider == "big" {
			spread[from]++
		}
	}
	if n := len(r.all()); n != sent {
		t.Errorf("%d copies of %d arrived", n, sent)
	}
	for addr, want := range map[string]int{"127.0.31.1": many / 4, "127.0.31.2": 3 * many / 4} {
		if got := spread[addr]; got < want-many*3/100 || got > want+many*3/100 {
			t.Errorf("%d of %d recipients from %s, want %d", got, many, addr, want)
		}
	}
}
