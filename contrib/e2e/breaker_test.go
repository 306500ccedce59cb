package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
)

// Complaints come home through Postfix about mail that was delivered, and the stream is held at
// that provider. The admin, at an address elsewhere, is told by Postfix, although a rule diverts
// everything that goes there; and what the mail tells to do lets the stream go on.
func TestBreakerHoldsForComplaintsAndTellsByTheHost(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{
		keep: true,
		millrace: lab.MillraceOptions{
			Set: map[string]string{
				"feedback.read": "true", "breaker.complaints": `"0.3%"`, "breaker.notify": `"ops@far.test"`,
				"general.max_recipients_per_message": "1", // a mark for each
			},
			Extra: "[[milter.rule]]\nname = \"everything\"\naction = \"divert\"\nrecipient_domain = [\"far.test\"]\nstream = \"news\"\n",
		},
	})
	var readers []string
	for i := range 100 {
		readers = append(readers, fmt.Sprintf("u%d@far.test", i))
	}
	r.send("news@lab.test", readers, news("run"))
	r.until("every copy", func() bool { return len(r.copies("run")) == len(readers) })

	list := dialects(t)
	arf := list[slices.IndexFunc(list, func(d dialect) bool { return d.name == "arf-yahoo.eml" })]
	outside := r.outsider()
	for _, a := range r.copies("run")[:10] {
		outside.sends("<>", []string{"<news@lab.test>"}, strings.ReplaceAll(arf.about(a, a.recipient), "\r\n.", "\r\n.."))
	}
	brakes := func() (st control.StandingOrders) {
		if err := json.Unmarshal([]byte(r.verb("brakes", "--json")), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	r.until("the stream is held", func() bool { return len(brakes().Pauses) == 1 })
	if p := brakes().Pauses[0]; p.Who != control.Breaker || p.Filter != (control.Filter{Queue: "general", Stream: "news"}) ||
		!strings.Contains(p.Reason, " complaints of 100 recipients ") || strings.Contains(p.Reason, "no complaint was ever") {
		t.Errorf("held: %+v", p)
	}
	r.send("news@lab.test", []string{"late@far.test"}, news("late"))

	notice := func() *arrival {
		for _, a := range r.all() {
			if a.recipient == "ops@far.test" {
				return &a
			}
		}
		return nil
	}
	r.until("the mail to the admin", func() bool { return notice() != nil })
	if a := notice(); a.ours() || a.sender != "" || !strings.Contains(a.content, "\r\nAuto-Submitted: auto-generated\r\n") ||
		!strings.Contains(a.content, "\r\n          millrace resume --queue general STREAM\r\n") {
		t.Errorf("diverted: %v, from %q:\n%s", a.ours(), a.sender, a.content)
	}
	if n := len(r.copies("late")); n != 0 {
		t.Errorf("%d copies of what is held", n)
	}
	r.verb("resume", "--queue", "general", "news")
	r.until("it goes on", func() bool { return len(r.copies("late")) == 1 })
	if a := r.copies("late")[0]; !a.ours() { // so the rule diverts what goes there
		t.Errorf("the rule diverts nothing: %+v", a)
	}
	if st := brakes(); len(st.Pauses) != 0 || len(st.Released) != 1 {
		t.Errorf("after resume: %+v", st)
	}
}
