package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
)

// hop is Postfix's Received field on top of what it delivers.
var hop = regexp.MustCompile(`\AReceived: (?:[^\r]|\r\n\s)*?\(Postfix\)(?:[^\r]|\r\n\s)*?\bid (\w+)`)

// A crash may repeat what goes back, never lose it: agent, Postfix and both are
// killed by turns while thousands of messages are on the way home, and while they are
// still being told to go.
func TestHandBackWhileBothSidesAreKilled(t *testing.T) {
	t.Parallel()
	const sessions = 4 // that the agent opens to the hand-back port at most
	r := enter(t, setup{
		keep:     true,
		patience: time.Hour,
		millrace: lab.MillraceOptions{Set: map[string]string{"handback.max_message_rate": `""`}},
	})
	why := "until it is handed back"
	const stream = "weekly.news.sender.test" // of the generator
	admin := control.NewClient(r.Millrace.Control())
	if err := admin.Pause(r.ctx, control.Pause{Filter: control.Filter{Stream: stream}, Reason: why}); err != nil {
		t.Fatal(err)
	}
	g := &inject.Generator{Seed: 17, Domains: farDomains[:2], MinSize: 1 << 10}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 8}
	sent, err := in.Run(r.ctx, handbacks, g.Message)
	if err != nil || sent.Messages != handbacks {
		t.Fatalf("%d of %d messages taken: %v %v", sent.Messages, handbacks, sent.Err, err)
	}
	r.until("all wait in Millrace", func() bool { return r.left() == handbacks })

	// ask tells the agent to hand all back, again and again as an admin would whose
	// command broke off.
	asked := make(chan error, 1)
	ask := func() {
		go func() {
			client := control.NewClient(r.Millrace.Control())
			defer client.Close()
			_, err := client.HandBack(r.ctx, control.Filter{All: true})
			asked <- err
		}()
	}
	ask()
	rnd := rand.New(rand.NewPCG(17, 18))
	agents, hosts := 0, 0
	for i := range handbackKills {
		// The first one strikes as soon as something has arrived.
		more := 1 + i*handbacks/(handbackKills+1) + rnd.IntN(handbacks/(handbackKills+1))
		r.until(fmt.Sprintf("%d copies", more), func() bool { return r.Internet.Ledger().Len() >= more })
		agent, host := i%3 != 1, i%3 != 0
		if agent {
			agents++
			r.Millrace.Agent.Kill()
		}
		if host {
			hosts++
			r.Postfix.Kill()
			if err := r.Postfix.Start(r.ctx); err != nil {
				t.Fatal(err)
			}
		}
		if agent {
			<-asked // it has ended, by itself or with the agent
			r.start(r.Millrace.Agent)
			r.loaded()
			ask()
		}
	}
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	r.until("nothing is left with Millrace", func() bool { return r.left() == 0 })
	rep := r.accounts(sent.Ledger)
	if len(rep.Lost)+len(rep.Altered)+len(rep.Stray) > 0 {
		t.Errorf("ledgers: %s", rep)
	}

	// A message that came to Postfix twice has two of its queue ids: that was us. What
	// Postfix delivered twice by itself, as it died, has one.
	ways := make(map[ledger.Copy]map[string]int)
	for _, a := range r.all() {
		m := hop.FindStringSubmatch(a.content)
		if m == nil || a.ours() {
			t.Fatalf("%s did not come by Postfix:\n%.500s", a.id, a.content)
		}
		c := ledger.Copy{ID: a.id, Recipient: a.recipient}
		if ways[c] == nil {
			ways[c] = make(map[string]int)
		}
		ways[c][m[1]]++
	}
	repeated, byPostfix := 0, 0
	for _, ids := range ways {
		repeated += len(ids) - 1
		for _, n := range ids {
			byPostfix += n - 1
		}
	}
	if most := (agents + hosts) * sessions; repeated > most {
		t.Errorf("%d messages handed back twice; invariant 3 allows %d", repeated, most)
	}
	t.Logf("%d messages, agent killed %d times, Postfix %d times: %d handed back twice, %d delivered twice by Postfix",
		handbacks, agents, hosts, repeated, byPostfix)
}
