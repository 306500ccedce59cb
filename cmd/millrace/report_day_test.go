package main

import (
	"fmt"
	"net/mail"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/sink"
)

// The daily report is printed, or mailed by the hand-back port, as mail that nobody answers;
// without counts it says so.
func TestDailyReport(t *testing.T) {
	t.Parallel()
	arrived := make(chan sink.Message, 1)
	net, err := sink.New(sink.Options{Message: func(m *sink.Message) { arrived <- *m }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	const host = "127.99.0.9"
	if err := net.Add(sink.Provider{Name: "host", Domains: []string{"*"}, Host: []sink.Host{{Name: "host.test", Addr: netip.MustParseAddr(host)}}}); err != nil {
		t.Fatal(err)
	}
	const refuses = "127.99.0.10"
	if err := net.Add(sink.Provider{Name: "refuses", Domains: []string{"refuses.test"}, Host: []sink.Host{{Name: "refuses.test", Addr: netip.MustParseAddr(refuses)}},
		Behaviour: sink.Behaviour{PermShare: 1, Say: map[sink.Cause]string{sink.CausePerm: "550 5.1.1 nobody here"}}}); err != nil {
		t.Fatal(err)
	}
	config := serve(t, messages())
	plain, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	relay := func(at string) {
		t.Helper()
		if err := os.WriteFile(config, fmt.Appendf(nil, "%s[handback]\nrelay = %q\n", plain, at), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	relay(fmt.Sprintf("%s:%d", host, net.Port()))
	printed := millrace(t, "TZ=UTC", "--config", config, "report", "--day", "2023-11-14")
	inOrder(t, printed.stdout, "Millrace on mail.example.com, Tuesday 2023-11-14 (UTC)", "between 00:00 and 24:00", "2023-11-07, for comparison",
		"sent                               1,200         1,000  +20%", "By provider", "1,200     +20%", "google", "By stream", "news", "Held back, as it stands at ", "paused, 14 recipients held: site google", "limited: general: at most 5 sessions")
	if r := millrace(t, "TZ=UTC", "--config", config, "report", "--day", "2023-11-14", "--mail", "root"); r.code != 0 || r.stdout != "" {
		t.Fatalf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
	}
	m := <-arrived
	got, err := mail.ReadMessage(strings.NewReader(string(m.Content)))
	if err != nil || m.Sender != "" || m.Recipients[0].Address != "root" {
		t.Fatalf("%v: from %q to %v", err, m.Sender, m.Recipients)
	}
	for key, want := range map[string]string{
		"Auto-Submitted": "auto-generated", "To": "<root>",
		"Subject": "Millrace on mail.example.com, 2023-11-14: 1,200 sent, 0 bounced, no complaints",
	} {
		if got.Header.Get(key) != want {
			t.Errorf("%s: %q", key, got.Header.Get(key))
		}
	}
	for at, says := range map[string]string{
		fmt.Sprintf("%s:%d", refuses, net.Port()): "did not take it: 550 5.1.1 nobody here",
		"127.0.0.1:9":         "the host's MTA at 127.0.0.1:9: ",
		"unix:/nonexistent/s": "the host's MTA at unix:/nonexistent/s: ",
	} {
		relay(at)
		if r := millrace(t, "TZ=UTC", "--config", config, "report", "--mail", "root@refuses.test"); r.code != 1 || !strings.Contains(r.stderr, says) {
			t.Errorf("%s: exit code %d: %s", at, r.code, r.stderr)
		}
	}
	for _, args := range [][]string{
		{"--day", "soon"}, {"--mail", "root", "--json"},
		{"--mail="}, {"--day="}, {"--mail", "a b"}, {"--mail", "@"}, {"--mail", "two..dots@far.test"}, {"--mail", "a@far.test."}, {"--mail", "a@b.test,c@d.test"},
		{"--day", time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)},
	} {
		if r := millrace(t, "TZ=UTC", append([]string{"--config", config, "report"}, args...)...); r.code != 64 || !strings.Contains(r.stderr, args[0][:5]) {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
	}
	nobody := configure(t, t.TempDir(), "unix:/nonexistent/s")
	if r := millrace(t, "TZ=UTC", "--config", nobody, "report", "--day", "2023-11-14"); r.code != 0 || strings.Count(r.stdout, "not running") != 2 {
		t.Errorf("without an agent: %s%s", r.stdout, r.stderr)
	}
}
