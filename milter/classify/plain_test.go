package classify

import (
	"testing"

	"github.com/millrace/millrace/agent/config"
)

// What Postfix takes and mends, and what is not ASCII or not printable, stays with the
// host, whoever's address it is and whatever a rule says.
func TestAddressesThatAreNotPlainStay(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}}}
	c := mustNew(t, cfg)
	for _, a := range []string{
		"<a@b.example>", "Ann <a@b.example>", " a@b.example ", "a @b.example", "a@b.example (x)", "@relay.example:a@b.example", "a@b.example.",
		"a..b@c.example", ".a@b.example", "a.@b.example", `"a"@b.example`, `"a b"@c.example`, "a@[192.0.2.1]", "a@localhost",
		"\"\x1b[2J\"@b.example", "a\u009b2J@b.example", "a\u202e@b.example", "a\xff@b.example", "jörg@b.example", "a@bücher.example",
	} {
		m := newsletter()
		m.Sender = a
		if got := c.Decide(m); got.Divert != nil || got.Reason != "sender is not a plain address" {
			t.Errorf("sender %q: %+v", a, got)
		}
		m = newsletter()
		m.Recipients = []Recipient{{Address: a, Mailer: "smtp", Host: domainOf(a)}, remote("ann@gmail.com")}
		if got := c.Decide(m); got.Divert == nil || got.Divert[0] || !got.Divert[1] {
			t.Errorf("recipient %q: %+v", a, got)
		}
	}
}
