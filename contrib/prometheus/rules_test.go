package prometheus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/elastic"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/metrics"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/spool"
)

const (
	rules     = "millrace.rules.yml"
	ruleTests = "millrace.rules.test.yml"
	dashboard = "../grafana/millrace.json"
)

// exposition is what an agent with a bit of everything exposes.
func exposition(t *testing.T) string {
	t.Helper()
	m := metrics.New("1.0", func() metrics.State {
		return metrics.State{
			Ready: true, BreakerHeld: map[string]int{"google": 1}, Warmups: []control.Warmup{{Address: "192.0.2.26", Queue: "google", Shares: []int{480}, Day: 1, Share: 480}}, Sources: []control.Source{{Address: "192.0.2.25", Pool: "news", Blocked: []control.Effect{{Site: "google:192.0.2.25"}}}},
			Limits:   []control.StreamLimits{{Name: "news", Window: "08:00-20:00", Quotas: []control.Quota{{Limit: 5000, Used: 7}}}},
			Outcomes: metrics.OutcomeStats{On: true}, Fleet: metrics.Fleet{On: true, OrdersRefused: map[string]int{"forged": 1, "full": 0}}, Webhooks: []metrics.Webhook{{Name: "crm"}}, MilterAt: time.Now(), Milter: control.MilterCounts{Messages: map[string]uint64{"delrcpt": 1}, Inlet: map[string]uint64{"spooled": 1}},
			Sites: []queue.Site{{Name: "mx.example", Queue: "general", Waiting: 1, Sessions: 2, Ready: 1, Target: elastic.Target{Sessions: 3, Pace: 4}}},
		}
	})
	now := time.Now()
	m.Delivery(&event.Delivery{
		Time: now, Envelope: &spool.Envelope{Arrived: now, Stream: "news"}, Queue: "general", Site: "mx.example", Status: event.Sent,
	})
	w := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// promtool runs the installed one or the one that make deps unpacks.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		path = "/var/cache/millrace-lab/prometheus/root/usr/bin/promtool"
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (make deps brings promtool)\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestExpositionKeepsPrometheusConventions(t *testing.T) {
	t.Parallel()
	promtool(t, exposition(t), "check", "metrics")
}

func TestRulesDoWhatTheyShould(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", rules)
	promtool(t, "", "test", "rules", ruleTests)
	tested := read(t, ruleTests)
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(read(t, rules), -1) {
		if !strings.Contains(tested, `alertname="`+m[1]+`", alertstate="firing"`) {
			t.Errorf("no test sees %s fire", m[1])
		}
	}
}

// panel is the part of a dashboard's panel that is looked at.
type panel struct {
	ID          int
	Title, Type string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ RefID, Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var d struct{ Panels []panel }
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	return d.Panels
}

// expressions are those of the dashboard, with what Grafana would put in for its
// variables.
func expressions(t *testing.T) (list []string) {
	t.Helper()
	fill := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*", "$queue", ".*")
	for _, p := range panels(t) {
		for _, x := range p.Targets {
			list = append(list, fill.Replace(x.Expr))
		}
	}
	return list
}

// What came back is to be seen, of the agent and of the milter, and warm-up: what was done beside
// the plan.
func TestDashboardShowsReportsAndWarmup(t *testing.T) {
	t.Parallel()
	all := strings.Join(expressions(t), "\n")
	for _, metric := range []string{"millrace_reports_total", "millrace_milter_reports_total", "millrace_warmup_share", "millrace_warmup_used", "millrace_warmup_held"} {
		if !strings.Contains(all, metric+"{") {
			t.Errorf("no panel shows %s", metric)
		}
	}
}

func TestDashboardCanBeShown(t *testing.T) {
	t.Parallel()
	all := panels(t)
	for i, p := range all {
		at := p.GridPos
		if p.Title == "" || at.W < 1 || at.H < 1 || at.X+at.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", i, p)
		}
		for _, other := range all[:i] {
			if other.ID == p.ID { // Grafana links to a panel by it
				t.Errorf("%q and %q are both panel %d", p.Title, other.Title, p.ID)
			}
			o := other.GridPos
			if at.X < o.X+o.W && o.X < at.X+at.W && at.Y < o.Y+o.H && o.Y < at.Y+at.H {
				t.Errorf("%q lies over %q", p.Title, other.Title)
			}
		}
	}
	var b bytes.Buffer
	b.WriteString("groups:\n- name: dashboard\n  rules:\n")
	for i, expr := range expressions(t) {
		if strings.Contains(expr, "$") {
			t.Errorf("unknown variable in %s", expr)
		}
		fmt.Fprintf(&b, "  - {record: panel_%d, expr: %q}\n", i, expr)
	}
	file := filepath.Join(t.TempDir(), "dashboard.rules.yml")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", "--lint=none", file)
}

// TestWhatIsAskedForIsExposed looks for each metric, label and, where we choose
// them, label value of rules, rule tests and dashboard in an exposition.
func TestWhatIsAskedForIsExposed(t *testing.T) {
	t.Parallel()
	type series struct{ labels map[string][]string }
	exposed := make(map[string]*series)
	for line := range strings.Lines(exposition(t)) {
		m := regexp.MustCompile(`^(\w+)(?:\{(.*)\})? \S+\n$`).FindStringSubmatch(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if m == nil {
			t.Fatalf("what is %q", line)
		}
		if exposed[m[1]] == nil {
			exposed[m[1]] = &series{make(map[string][]string)}
		}
		for _, l := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			exposed[m[1]].labels[l[1]] = append(exposed[m[1]].labels[l[1]], l[2])
		}
	}
	ours := []string{"status", "class", "state", "result", "verdict", "stage", "reason"} // labels whose values we choose
	asked := 0
	for _, text := range append(expressions(t), read(t, rules), read(t, ruleTests)) {
		for _, m := range regexp.MustCompile(`(:?)\b(millrace_\w+|process_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(text, -1) {
			if m[1] != "" || m[2] == "millrace_sent" || m[2] == "millrace_time_to_empty" {
				continue // of a recording rule
			}
			asked++
			s := exposed[m[2]]
			if s == nil {
				t.Errorf("nobody exposes %s", m[2])
				continue
			}
			for _, l := range regexp.MustCompile(`(\w+)=~?"([^"]*)"`).FindAllStringSubmatch(m[3], -1) {
				switch values := s.labels[l[1]]; {
				case l[1] == "instance" || l[1] == "job": // by Prometheus
				case values == nil:
					t.Errorf("%s has no label %s", m[2], l[1])
				case slices.Contains(ours, l[1]):
					for value := range strings.SplitSeq(l[2], "|") {
						if !slices.Contains(values, value) {
							t.Errorf("%s has no %s=%q, but %q", m[2], l[1], value, values)
						}
					}
				}
			}
		}
	}
	if asked < 60 {
		t.Errorf("only %d metrics were found in rules and dashboard", asked)
	}
}
