//go:build !race

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// summed is what pflogsumm makes of a log.
type summed struct {
	totals  map[string]int // by its words: received, deferrals, bytes delivered ...
	domains map[string]domainSum
	all     string
}

type domainSum struct{ sent, octets, defers int }

// pflogsumm runs the real one over logs of Postfix and ours together.
func pflogsumm(t *testing.T, logs ...string) summed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pflogsumm", "--syslog-name", "millrace")
	cmd.Stdin = strings.NewReader(strings.Join(logs, ""))
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("pflogsumm: %v\n%s", err, &complaints)
	}
	s := summed{totals: make(map[string]int), domains: make(map[string]domainSum), all: string(out)}
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("pflogsumm says %q in\n%s", text, out)
		}
		return n
	}
	head, rest, _ := strings.Cut(s.all, "Per-Hour Traffic Summary")
	for _, m := range regexp.MustCompile(`(?m)^ +(\S+) +([a-z/ ]+?)(?: +\((\d+) +deferrals\)| +\(\d+%\))?$`).FindAllStringSubmatch(head, -1) {
		s.totals[m[2]] = number(m[1])
		if m[3] != "" {
			s.totals["deferrals"] = number(m[3])
		}
	}
	_, delivery, _ := strings.Cut(rest, "Host/Domain Summary: Message Delivery")
	delivery, _, _ = strings.Cut(delivery, "Host/Domain Summary: Messages Received")
	for _, m := range regexp.MustCompile(`(?m)^ +(\d+) +(\d+) +(\d+) +[\d.]+ \w +[\d.]+ \w +(\S+)$`).FindAllStringSubmatch(delivery, -1) {
		s.domains[m[4]] = domainSum{number(m[1]), number(m[2]), number(m[3])}
	}
	return s
}

// metrics waits until the agent, to which the milter reports every second, exposes
// such values.
func (r *room) metrics(listen string, want map[string]int) {
	r.t.Helper()
	for series, n := range want {
		line := fmt.Sprintf("\n%s %d\n", series, n)
		var text []byte
		holds := func() bool {
			resp, err := http.Get("http://" + listen + "/metrics")
			if err != nil {
				r.t.Fatal(err)
			}
			defer resp.Body.Close()
			if text, err = io.ReadAll(resp.Body); err != nil {
				r.t.Fatal(err)
			}
			return bytes.Contains(text, []byte(line))
		}
		r.until(strings.TrimSpace(line), holds)
	}
}

// TestPflogsummCountsAsTheReceiversDo sends mail of every fate and has pflogsumm
// read Postfix's log and ours as one. Nothing may be counted twice, nothing be lost:
// neither what both of us handle, nor what one of us hands to the other.
func TestPflogsummCountsAsTheReceiversDo(t *testing.T) {
	t.Parallel()
	for verdict, listen := range map[string]string{"delrcpt": "127.0.0.1:8892", "discard": "127.0.0.1:8893"} {
		t.Run(verdict, func(t *testing.T) {
			t.Parallel()
			r := enter(t, setup{
				providers: []sink.Provider{
					{Name: "far", Domains: farDomains},
					{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 2}},
					{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
				},
				postfix: lab.PostfixOptions{Extra: map[string]string{"in_flow_delay": "0"}},
				millrace: lab.MillraceOptions{
					Set:   map[string]string{"agent.http.listen": strconv.Quote(listen), "log.format": `"postfix"`, "general.retry": `["1s"]`, "milter.verdict": strconv.Quote(verdict)},
					Extra: "[[queue]]\nname = \"home\"\ndomains = [\"d1.example\"]\nroute = \"handback\"\n",
				},
			})
			var qids []string
			octets := make(map[string]int)
			bulk := func(id string, to ...string) {
				content := news(id)
				qids = append(qids, r.send("news@lab.test", to, content))
				for _, a := range to {
					octets[a[strings.IndexByte(a, '@')+1:]] += len(content)
				}
			}
			for i := range 20 {
				bulk(fmt.Sprint("one-", i), fmt.Sprintf("a%d@far.test", i))
			}
			bulk("several", "a@far.test", "b@far.example", "c@busy.test", "d@busy.test")
			bulk("busy", "e@busy.test")
			bulk("refused", "f@strict.test", "g@far.test")
			bulk("returned", "h@d1.example")
			// What is not bulk goes Postfix's way.
			plain := strings.ReplaceAll(strings.ReplaceAll(news("plain"), "List-Id", "X-A"), "List-Unsubscribe", "X-B")
			qids = append(qids, r.send("joe@lab.test", []string{"i@far.test"}, plain))

			r.until("all is delivered", func() bool { return len(r.all()) == 20+4+1+1+1+1 })
			r.mailbox("news@lab.test", 1) // the report of what was refused
			r.rest()
			r.metrics(listen, map[string]int{
				// 27 recipients and one of them refused, one returned.
				`millrace_deliveries_total{queue="general",status="sent"}`:         26,
				`millrace_deliveries_total{queue="general",status="deferred"}`:     3 * 2,
				`millrace_deliveries_total{queue="general",status="bounced"}`:      1,
				`millrace_deliveries_total{queue="handback",status="handed_back"}`: 2,
				`millrace_milter_messages_total{verdict="` + verdict + `"}`:        24,
				`millrace_milter_messages_total{verdict="leave"}`:                  1,
				`millrace_milter_diverted_recipients_total`:                        28,
			})
			r.stop(r.Millrace.Milter, r.Millrace.Agent)
			delivered := len(r.all()) + 1
			r.hostLines(3, "status=sent") // its own message, the one that was returned, and the report

			host, agent := read(t, r.Postfix.Log()), read(t, r.Millrace.Agent.Log())
			got := pflogsumm(t, host, read(t, r.Millrace.Milter.Log()), agent)
			size := 0 // as who had it in his queue says, first of all Postfix
			for _, qid := range qids {
				m := regexp.MustCompile(qid + `: from=<[^>]+>, size=(\d+)`).FindStringSubmatch(host + agent)
				if m == nil {
					t.Fatalf("nobody tells the size of %s", qid)
				}
				n, _ := strconv.Atoi(m[1])
				size += n
			}
			want := map[string]int{
				"received": len(qids), "bytes received": size, "delivered": delivered, "bounced": 1,
				"deferred": 2, "deferrals": 3 * 2, // two messages; three recipients, twice each
				// One recipient that went back to Postfix, and the report.
				"forwarded": 2,
				"rejected":  0, "held": 0,
			}
			for what, n := range want {
				if got.totals[what] != n {
					t.Errorf("pflogsumm counts %d %s, there were %d", got.totals[what], what, n)
				}
			}
			arrived := make(map[string]int)
			for _, a := range r.all() {
				arrived[a.recipient[strings.IndexByte(a.recipient, '@')+1:]]++
			}
			arrived[lab.LocalDomain] = 1
			for _, domain := range slices.Sorted(maps.Keys(arrived)) {
				if got.domains[domain].sent != arrived[domain] {
					t.Errorf("%s: pflogsumm counts %+v, %d arrived", domain, got.domains[domain], arrived[domain])
				}
			}
			if got.domains["busy.test"].defers != 6 {
				t.Errorf("busy.test: %+v, there were 6 deferrals", got.domains["busy.test"])
			}
			if verdict == "discard" {
				// Postfix never learns the size of these: it is ours.
				for _, domain := range []string{"busy.test", "far.example"} {
					if got.domains[domain].octets != octets[domain] {
						t.Errorf("%s: %+v, %d octets were sent", domain, got.domains[domain], octets[domain])
					}
				}
			}
			if strings.Contains(got.all, "Messages with no size data") {
				t.Error("there are messages without a size")
			}
			if n, m := strings.Count(agent, "(queue active)"), strings.Count(agent, ": removed\n"); m != len(qids)-1+1 || n < m {
				t.Errorf("%d messages are active, %d removed", n, m)
			}
			if t.Failed() {
				t.Logf("%s\n%s", got.all, agent)
			}
		})
	}
}
