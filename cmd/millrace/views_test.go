package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/cmd/internal/program"
)

// twoOfThree is a fleet of which the node c is away.
type twoOfThree struct{ b *httptest.Server }

func (twoOfThree) Node() string    { return "a" }
func (twoOfThree) Nodes() []string { return []string{"a", "b", "c"} }

func (f twoOfThree) Get(ctx context.Context, node, path string) (io.ReadCloser, error) {
	if node != "b" {
		return nil, errors.New("connection refused")
	}
	resp, err := f.b.Client().Get(f.b.URL + path)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// serveFleet opens a control socket of a fleet, and returns a configuration that names it.
func serveFleet(t *testing.T, own, other control.Backend) string {
	t.Helper()
	dir := t.TempDir()
	address := "unix:" + filepath.Join(dir, "s")
	log := slog.New(slog.DiscardHandler)
	s, err := control.Listen(address, own, log)
	if err != nil {
		t.Fatal(err)
	}
	b := httptest.NewServer(control.Views(other, log))
	s.ShowFleet(twoOfThree{b})
	var served sync.WaitGroup
	served.Go(func() { s.Serve() })
	t.Cleanup(func() { s.Close(); served.Wait(); b.Close() })
	return configure(t, dir, address)
}

// Listings of the fleet have a column for the node, and a field in JSON; nodes that do not answer
// are named, and the exit code tells.
func TestListingsOfTheFleet(t *testing.T) {
	t.Parallel()
	config := serveFleet(t, messages()[2:], messages()[:1])
	const missing = "millrace: node c did not answer: connection refused\n"
	for _, x := range []struct {
		args   []string
		stdout []string // lines of it, in any order
		code   int
	}{
		{[]string{"queue", "--fleet"}, []string{
			"----Node------- ----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
			"a               M1-1F00!               800 Tue Nov 14 22:14:22 sale@example.com",
			"                                                                                 (wrong price)",
			"b               M1-A0*                1500 Tue Nov 14 22:13:20 news@example.com",
			"                                                               b@gmail.com",
			"-- 2 Kbytes in 2 Requests.",
		}, program.ExitTempFail},
		{[]string{"queue", "--fleet", "--json"}, []string{
			`{"node":"a","queue_name":"general","queue_id":"M1-1F00","host_queue_id":"4F0C23","arrival_time":1700000062,"message_size":800,"sender":"sale@example.com","recipients":[{"address":"g@example.com","delay_reason":"wrong price","state":"held","domain":"","tries":0}]}`,
		}, program.ExitTempFail},
		{[]string{"find", "--fleet", "sale"}, []string{"a               M1-1F00!               800 Tue Nov 14 22:14:22 sale@example.com"}, program.ExitTempFail},
		{[]string{"find", "--fleet", "nobody"}, nil, program.ExitTempFail}, // the node c may have it
		{[]string{"streams", "--fleet"}, []string{
			"NODE               WAITING   DEFERRED   ACTIVE     HELD PRIORITY  STREAM",
			"a                     1200         30       20        3        4  news.example.com",
			"b                        7          0        0        0        1  sale.example.com  (paused: wrong price)",
		}, program.ExitTempFail},
		{[]string{"streams", "--fleet", "--json"}, []string{
			`{"node":"b","name":"sale.example.com","waiting":7,"deferred":0,"active":0,"paused":"wrong price"}`,
		}, program.ExitTempFail},
		{[]string{"brakes", "--fleet"}, []string{
			"a               limited: general: at most 5 sessions and 0.5/s until 2023-11-14 23:13:20 (root (uid 0))",
			"b               limited: general: at most 5 sessions and 0.5/s until 2023-11-14 23:13:20 (root (uid 0))",
		}, program.ExitTempFail},
		{[]string{"brakes", "--fleet", "--json"}, []string{`{"node":"a","brakes":[`, `{"node":"b","brakes":[`}, program.ExitTempFail},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, x.args...)...)
		if r.code != x.code || !strings.Contains(r.stderr, missing) || strings.Count(r.stderr, "did not answer") != 1 {
			t.Errorf("millrace %q: exit code %d\n%s", x.args, r.code, r.stderr)
		}
		for _, line := range x.stdout {
			if !strings.Contains("\n"+r.stdout, "\n"+line) {
				t.Errorf("millrace %q: no line %q in\n%s", x.args, line, r.stdout)
			}
		}
		if x.stdout == nil && r.stdout != "" {
			t.Errorf("millrace %q: %s", x.args, r.stdout)
		}
	}
}

// Without a fleet --fleet says what to do, and shows nothing of this host alone.
func TestListingsOfNoFleet(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, args := range [][]string{{"queue", "--fleet"}, {"queue", "--fleet", "--json"}, {"find", "--fleet", "sale"}, {"streams", "--fleet"}, {"brakes", "--fleet", "--json"}} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, args...)...)
		if r.code != program.ExitFailure || r.stdout != "" || !strings.Contains(r.stderr, "of no fleet") || !strings.Contains(r.stderr, "remedy: name and listen in [fleet]") {
			t.Errorf("millrace %q: exit code %d: %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
}
