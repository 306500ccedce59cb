package web

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/history"
)

// Where counts reach back months, the charts do: over a restart, and by a link of their own.
// What was not counted then is left out, not drawn as 0.
func TestChartsReachBackOverARestart(t *testing.T) {
	t.Parallel()
	now := time.Now()
	young := history.New(now)
	if body := ask(New(Options{Backend: quiet(), History: young, Hostnames: func() []string { return nil }}), "/", nil).Body.String(); strings.Contains(body, "span=7d") {
		t.Error("days are offered that nobody has counted")
	}
	var counts []history.Count
	for day := 399; day > 0; day-- {
		counts = append(counts, history.Count{Start: now.Add(-time.Duration(day+1) * 24 * time.Hour), Width: 24 * time.Hour, Sent: 86400 * 50, Bounces: 86400})
	}
	for part := 3; part > 0; part-- { // of the last quarter of an hour
		counts = append(counts, history.Count{Start: now.Add(-time.Duration(part) * 5 * time.Minute), Width: 5 * time.Minute, Sent: 300 * 50})
	}
	young.SetPast(counts, now)
	h := New(Options{Backend: quiet(), History: young, Hostnames: func() []string { return nil }})
	for link, since := range map[string]string{"/": "15 minutes ago", "/?span=7d": "7 days ago", "/?span=400d": "400 days ago"} {
		body := ask(h, link, nil).Body.String()
		if !strings.Contains(body, since) || !strings.Contains(body, "span=400d") || !strings.Contains(body, "50/s") || strings.Contains(body, "NaN") {
			t.Errorf("%s:\n%s", link, body)
		}
	}
}
