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

// twoWarmups are two pools of a warm address and a cold one each, which may begin with six
// recipients a day, so with one at once. The first has its warm address take the rest, the
// second has the host.
const twoWarmups = `
[[warmup]]
name = "few"
days = [6, 9]

[[pool]]
name = "news"
addresses = ["127.0.25.1", "192.0.2.225"]
warmup = ["", "few"]
overflow = "warm"

[[pool]]
name = "shop"
addresses = ["127.0.25.2", "192.0.2.226"]
warmup = ["", "few"]
overflow = "handback"

[[milter.rule]]
name = "a"
action = "divert"
sender = ["a@lab.test"]
stream = "news"
pool = "news"

[[milter.rule]]
name = "b"
action = "divert"
sender = ["b@lab.test"]
stream = "shop"
pool = "shop"
`

// Two new addresses behind a real Postfix send what their first day allows, once; the rest of the one
// leaves from the warm address, that of the other by Postfix. A complaint that comes home about
// such mail counts against the day of both, as a report tells no address, and the command shows it.
func TestWarmupBehindPostfix(t *testing.T) {
	t.Parallel()
	const domains = 20
	addAddress(t, "192.0.2.225")
	addAddress(t, "192.0.2.226")
	r := enter(t, setup{keep: true, millrace: lab.MillraceOptions{
		Set: map[string]string{"feedback.read": "true"}, Extra: twoWarmups,
	}})
	for i := range domains {
		for _, from := range []string{"a@lab.test", "b@lab.test"} {
			r.send(from, []string{fmt.Sprintf("%c@d%d.example", from[0], i)}, news(fmt.Sprintf("%c%d", from[0], i)))
		}
	}
	r.until("every copy", func() bool { return len(r.all()) == 2*domains })
	r.rest()
	left := make(map[string]int) // by sender and what it left from, or "postfix"
	var cold *arrival
	for _, a := range r.all() {
		from := "postfix"
		if a.ours() {
			from = a.client.String()
		}
		left[a.sender+" "+from]++
		if from == "192.0.2.225" {
			cold = &a
		}
	}
	for _, x := range []struct{ sender, cold, warm, rest string }{
		{"a@lab.test", "192.0.2.225", "127.0.25.1", "127.0.25.1"},
		{"b@lab.test", "192.0.2.226", "127.0.25.2", "postfix"},
	} {
		n := left[x.sender+" "+x.cold] // two, if a day begins meanwhile
		if n < 1 || n > 2 || left[x.sender+" "+x.warm] == 0 || left[x.sender+" "+x.rest] == 0 {
			t.Errorf("%s: %v", x.sender, left)
		}
		delete(left, x.sender+" "+x.cold)
		delete(left, x.sender+" "+x.warm)
		delete(left, x.sender+" "+x.rest)
	}
	if len(left) > 0 || cold == nil {
		t.Fatalf("also by %v", left)
	}

	list := dialects(t)
	arf := list[slices.IndexFunc(list, func(d dialect) bool { return d.name == "arf-yahoo.eml" })]
	r.outsider().sends("<>", []string{"<a@lab.test>"}, strings.ReplaceAll(arf.about(*cold, cold.recipient), "\r\n.", "\r\n.."))
	r.reportsRead()
	r.until("the complaint counts for both", func() bool {
		complained := 0
		for line := range strings.Lines(r.verb("warmup", "--json")) {
			var w control.Warmup
			if err := json.Unmarshal([]byte(line), &w); err != nil {
				t.Fatal(err)
			}
			if w.Queue != "general" || w.Plan != "few" || !strings.HasPrefix(w.Address, "192.0.2.22") || w.Share != 6 {
				t.Fatalf("%s", line)
			}
			for _, d := range w.Days {
				complained += d.Complaints
			}
			if !w.Reports {
				return false
			}
		}
		return complained == 2
	})
	text := r.verb("warmup")
	for _, want := range []string{"192.0.2.225 to general, plan few: day 1 of 2: ", "192.0.2.226 to general, plan few: day 1 of 2: ", " of 6 recipients"} {
		if !strings.Contains(text, want) {
			t.Errorf("millrace warmup says no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "no complaint was ever") {
		t.Errorf("millrace warmup:\n%s", text)
	}
}
