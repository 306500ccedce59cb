package main

import (
	"strings"
	"testing"
)

func TestStreamVerbs(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args   []string
		code   int
		stdout string // all of it
		stderr string // a part
	}{
		{args: []string{"streams"}, stdout: `   WAITING   DEFERRED   ACTIVE PRIORITY  STREAM
      1200         30       20        4  news.example.com
         7          0        0        1  sale.example.com  (paused: wrong price)
`},
		{args: []string{"streams", "--json"}, stdout: `{"name":"news.example.com","waiting":1200,"deferred":30,"active":20,"priority":4}
{"name":"sale.example.com","waiting":7,"deferred":0,"active":0,"paused":"wrong price"}
`},
		{args: []string{"pause", "news.example.com"}},
		{args: []string{"resume", "news.example.com"}},
		{args: []string{"priority", "news.example.com", "4"}},
		{args: []string{"pause", "other"}, code: 1, stderr: `stream "other"`},
		{args: []string{"pause", "news.example.com", "--reason", ""}, code: 1, stderr: "--reason"},
		{args: []string{"cancel"}, code: 1, stderr: "say what to cancel"},
		{args: []string{"cancel", "--user", "joe"}, code: 1, stderr: "--yes"},
		{args: []string{"cancel", "--user", "joe", "--yes"},
			stdout: "100000 recipients cancelled\n1 recipient in transactions under way; run it again for what comes back\n"},
		{args: []string{"why", "google"}, stdout: `2023-11-14 22:13:20    0 -> 2    start
2023-11-14 22:14:20   20 -> 11  at most 12.5/s  refused with 11 up: 421 too many
`},
		{args: []string{"web"}, stdout: "http://127.0.0.1:8891/enter?token=x\n"},
		{args: []string{"why", "other"}, code: 1, stderr: "site other: not known to the agent"},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, x.args...)...)
		if r.code != x.code || r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) || x.stderr == "" && r.stderr != "" {
			t.Errorf("millrace %q: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
	}
}

func TestOnlyYesIsYes(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{"y\n": true, "yes\n": true, "Y\n": true, "n\n": false, "\n": false, "": false, "yolo\n": false} {
		var asked strings.Builder
		if got := confirm(strings.NewReader(answer), &asked, "Sure?"); got != want || asked.String() != "Sure? [y/N] " {
			t.Errorf("%q is %v, after %q", answer, got, asked.String())
		}
	}
}
