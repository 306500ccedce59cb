package agent

import (
	"net/http"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// exposition reads /metrics.
func (s *stage) exposition() string {
	s.t.Helper()
	code, text := s.page(s.config.Agent.HTTP.Listen[0], "/metrics")
	if code != http.StatusOK {
		s.t.Fatalf("%d: %s", code, text)
	}
	return text
}

// TestMetricsTellWhatHappened sends mail to three kinds of receivers and compares
// the counters with what the receivers saw.
func TestMetricsTellWhatHappened(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "bad", Domains: []string{"bad.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
	)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "a@far.test", "b@far.test")
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "c@bad.test")
	s.until("all is delivered, and the report too", func() bool {
		return len(s.at("far")) == 2 && len(s.at("host")) == 1 && s.empty()
	})
	admin := s.admin()
	defer admin.Close()
	_, err := admin.Milter(t.Context(), control.MilterReport{MilterCounts: control.MilterCounts{
		Messages: map[string]uint64{"delrcpt": 2, "leave": 40, "inlet": 5}, Recipients: 3, Connections: 7,
		Inlet: map[string]uint64{"spooled": 5, "passed": 6, "refused": 7, "unsure": 1, "turned_away": 8},
	}})
	if err != nil {
		t.Fatal(err)
	}
	text := s.exposition()
	for _, want := range []string{
		`millrace_deliveries_total{queue="general",status="sent"} 2`,
		`millrace_deliveries_total{queue="general",status="bounced"} 1`,
		`millrace_deliveries_total{queue="handback",status="handed_back"} 1`,
		`millrace_stream_deliveries_total{status="sent",stream="news"} 2`,
		`millrace_connects_total{queue="handback",result="up"} 1`,
		`millrace_delivery_delay_seconds_count{queue="general"} 2`,
		`millrace_recipients{state="waiting"} 0`,
		`millrace_sessions_limit 200`,
		`millrace_ready 1`,
		`millrace_build_info{version="test"} 1`,
		`millrace_milter_messages_total{verdict="delrcpt"} 2`,
		`millrace_milter_messages_total{verdict="inlet"} 5`,
		`millrace_inlet_messages_total{result="spooled"} 5`,
		`millrace_inlet_messages_total{result="passed"} 6`,
		`millrace_inlet_messages_total{result="refused"} 7`,
		`millrace_inlet_messages_total{result="unsure"} 1`,
		`millrace_inlet_turned_away_total 8`,
		`millrace_milter_messages_total{verdict="lost"} 0`,
		`millrace_milter_diverted_recipients_total 3`,
		`millrace_milter_connections_total 7`,
		`millrace_journal_errors_total 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%s is not in:\n%s", want, text)
		}
	}
	for _, positive := range []string{"millrace_spool_free_bytes", "millrace_spool_segments", `millrace_dns_queries_total{result="found"}`, "process_cpu_seconds_total", "go_goroutines"} {
		if !strings.Contains(text, "\n"+positive+" ") || strings.Contains(text, "\n"+positive+" 0\n") {
			t.Errorf("%s is missing or 0", positive)
		}
	}
}
