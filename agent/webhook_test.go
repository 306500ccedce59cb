package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/webhook"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// posted are the events that a receiver took.
type posted struct {
	mu     sync.Mutex
	code   int // 0: 200
	events []webhook.Event
}

func (p *posted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.code != 0 {
		w.WriteHeader(p.code)
		return
	}
	b, _ := io.ReadAll(r.Body)
	var m struct {
		Data struct{ Events []webhook.Event }
	}
	if json.Unmarshal(b, &m) == nil {
		p.events = append(p.events, m.Data.Events...)
	}
}

// words are the events in order, and of whom.
func (p *posted) words() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		list = append(list, e.Recipient+" "+e.Event)
	}
	return list
}

func postTo(url string, events ...string) func(*config.Config) {
	return func(c *config.Config) {
		c.Webhooks = []config.Webhook{{Name: "crm", URL: url, Form: config.FormMillrace, Events: events}}
	}
}

// Simulated recipients do as their local parts say, nothing is connected to, and what
// becomes of them is told as of others: by the log, the outcomes and a webhook.
func TestSimulatedRecipientsDoAsTheirLocalPartSays(t *testing.T) {
	t.Parallel()
	p := &posted{}
	server := httptest.NewServer(p)
	defer server.Close()
	s := newStage(t, func(c *config.Config) {
		postTo(server.URL, "sent", "deferred", "bounced", "complaint")(c)
		keepOutcomes(c)
		c.Simulate.Domain = "simulated.test"
		c.General.Retry = []time.Duration{time.Hour}
		c.Suppression = config.Suppression{Mode: config.SuppressDrop, After: 3, Within: time.Hour, Expire: time.Hour, Scope: config.SuppressStream}
	}, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	a := s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter,
		"deliver@simulated.test", "BOUNCE+7@simulated.test", "defer-x@simulated.test", "complain+1@simulated.test", "complain+2@simulated.test", "any@sub.simulated.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "real@far.test")
	s.until("all told", func() bool { return len(p.words()) >= 9 && len(s.at("host")) == 1 })
	got := p.words()
	index := func(w string) int { return slices.Index(got, w) }
	for _, want := range []string{
		"deliver@simulated.test sent", "BOUNCE+7@simulated.test bounced", "defer-x@simulated.test deferred", "any@sub.simulated.test sent",
		"complain+1@simulated.test sent", "complain+1@simulated.test complaint", "complain+2@simulated.test complaint", "real@far.test sent",
	} {
		if index(want) < 0 {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if index("complain+1@simulated.test complaint") < index("complain+1@simulated.test sent") {
		t.Errorf("%q", got)
	}
	for _, e := range p.events {
		if simulated := strings.HasSuffix(e.Domain, "simulated.test"); e.Simulated != simulated || e.Event != "complaint" && strings.Contains(e.Relay, "[simulated]") != simulated {
			t.Errorf("%+v", e)
		}
		if e.Event == "complaint" && (e.Counted == nil || !*e.Counted || e.FeedbackType != "abuse") {
			t.Errorf("%+v", e)
		}
		if e.Event == "bounced" && (!e.Hard || e.Code != 550 || e.Class != "userunknown") {
			t.Errorf("%+v", e)
		}
	}
	if m := s.at("host")[0]; m.recipient != "n@news.test" || !strings.Contains(m.content, "simulated: user unknown") {
		t.Errorf("the report: %+v", m)
	}
	if _, ok := a.bounced.Check("news", "complain+1@simulated.test", time.Now()); !ok {
		t.Error("the complaint does not suppress")
	}
	s.until("the outcomes", func() bool {
		list := s.history(control.OutcomeQuestion{Recipient: "deliver@simulated.test"})
		return len(list) == 1 && list[0].Relay == "simulated.test[simulated]" && list[0].Reply == "250 2.0.0 simulated: taken"
	})
	// After a restart what was deferred is tried again, and nothing is told twice.
	s.stop()
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "deliver+2@simulated.test")
	s.until("told", func() bool { return slices.Contains(p.words(), "deliver+2@simulated.test sent") })
	if n := len(p.words()); n != len(got)+1 {
		t.Errorf("%q", p.words())
	}
}

// While a receiver is away mail goes on, /readyz says ok, and what waits is listed; what is
// asked for by the control socket is done.
func TestWebhookThatIsAwayHoldsNothingUp(t *testing.T) {
	t.Parallel()
	p := &posted{code: http.StatusServiceUnavailable}
	server := httptest.NewServer(p)
	defer server.Close()
	s := newStage(t, postTo(server.URL, "sent"), sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.config.Agent.HTTP.Listen = config.Listeners{freePort(t)}
	s.start()
	for i := range 20 {
		s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, fmt.Sprintf("r%d@far.test", i))
	}
	s.until("delivered", func() bool { return len(s.at("far")) == 20 && s.empty() })
	client := s.admin()
	s.until("they wait", func() bool {
		list, err := client.Webhooks(t.Context())
		return err == nil && len(list) == 1 && list[0].Waiting == 20 && strings.HasPrefix(list[0].Why, "503 ")
	})
	resp, err := http.Get("http://" + s.config.Agent.HTTP.Listen[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	for _, want := range []string{`millrace_webhook_waiting_events{webhook="crm"} 20`, `millrace_webhook_failing{webhook="crm"} 0`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s", want)
		}
	}
	if _, err := client.TestWebhook(t.Context(), control.WebhookTest{Name: "crm"}); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
	p.mu.Lock()
	p.code = 0
	p.mu.Unlock()
	if answer, err := client.TestWebhook(t.Context(), control.WebhookTest{Name: "crm"}); err != nil || answer != "200 OK" {
		t.Errorf("%q, %v", answer, err)
	}
	s.until("taken", func() bool {
		list, err := client.Webhooks(t.Context())
		return err == nil && list[0].Taken == 20 && list[0].Waiting == 0
	})
	if n, err := client.ReplayWebhook(t.Context(), control.WebhookReplay{Name: "crm", Since: time.Now().Add(-time.Hour)}); err != nil || n != 20 {
		t.Errorf("%d, %v", n, err)
	}
	s.until("taken again", func() bool { return len(p.words()) == 41 })
	if _, err := client.ReplayWebhook(t.Context(), control.WebhookReplay{Name: "other"}); err == nil || !strings.Contains(err.Error(), "there is no webhook") {
		t.Errorf("%v", err)
	}
	done, err := client.Erase(t.Context(), control.Erasure{Address: "r7@far.test"})
	if err != nil || done.Events != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// Without [[webhook]] nothing is made.
func TestWithoutWebhooksNothingIsKept(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
	s.stop()
	if _, err := os.Stat(filepath.Join(s.config.Agent.StateDirectory, "webhooks")); err == nil {
		t.Error("webhooks was made")
	}
}
