package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

func (backend) Fleet() control.Fleet {
	return control.Fleet{
		Fleet: "mail", Node: "mx1", Members: []string{"mx1", "mx2", "mx3"}, Divisor: 3, Server: "192.0.2.7:6379", State: "away",
		Away: "192.0.2.7:6379: connection refused\x1b[2J", Since: time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC), Lease: 12.4, Calls: 12345, Errors: 7,
		Limits: []control.Lent{
			{Name: "queue/general/a.example", Limit: 10, Floor: 3, May: 7, Has: 6, Want: 9},
			{Name: "stream/news", Limit: 20, Floor: 6.666, May: 12.5},
		},
		More: 1200, Warnings: []string{"the store is away"},
	}
}

func (backend) ForgetNode(_ context.Context, n control.FleetNode) error {
	if n.Node != "mx3" {
		return errors.New("there is no member")
	}
	return nil
}

func (backend) LeaveFleet(context.Context) error     { return errors.New("the store has not taken it yet") }
func (backend) BootstrapFleet(context.Context) error { return nil }

func TestFleetVerbs(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{args: "fleet", stdout: `fleet mail, node mx1, members: mx1 mx2 mx3
store away (192.0.2.7:6379) since 2026-11-29 08:00:00, 12,345 calls, 7 not answered, lease runs for 12 s
192.0.2.7:6379: connection refused?[2J
warning: the store is away
floor of each limit: 1/3 of it
   LIMIT    FLOOR  MAY USE   IN USE   WANTED  NAME
      10        3        7        6        9  queue/general/a.example
      20    6.666     12.5        -        -  stream/news
and 1,200 more
`},
		{args: "fleet forget mx3", stdout: "mx3 is no member any more: what was its own is lent to the others\n"},
		{args: "fleet forget mx4", code: 1, stderr: "there is no member"},
		{args: "fleet leave", code: 1, stderr: "has not taken it yet"},
		{args: "fleet bootstrap", stdout: "the fleet begins here; this node has its part in about half a minute (millrace fleet)\n"},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(x.args)...)...)
		if r.code != x.code || r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) {
			t.Errorf("%s: exit code %d\n%s\nwant\n%s\n%s", x.args, r.code, r.stdout, x.stdout, r.stderr)
		}
	}
	r := millrace(t, "TZ=UTC", "--config", config, "fleet", "--json")
	fit(t, "fleet --json", r.stdout)
	if strings.Count(r.stdout, "\n") != 1 || !strings.Contains(r.stdout, `"lease_seconds_left":12.4`) {
		t.Errorf("%s", r.stdout)
	}
}
