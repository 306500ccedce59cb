package main

import (
	"context"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

// inFleet is an agent in a fleet.
type inFleet struct {
	backend
	missing []string
	here    *bool // what the last request has said
}

func (f inFleet) Spread(context.Context) control.Spread {
	return control.Spread{Fleet: "f", Confirmed: []string{"a"}, Missing: f.missing}
}

func (f inFleet) Pause(ctx context.Context, p control.Pause) error {
	*f.here = control.IsHere(ctx)
	return f.backend.Pause(ctx, p)
}

func (f inFleet) Prioritize(ctx context.Context, p control.Priority) error {
	*f.here = control.IsHere(ctx)
	return f.backend.Prioritize(ctx, p)
}

func TestCommandsSayOnWhichNodesAnOrderIsDone(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		missing []string
		args    string
		want    string
		here    bool
	}{
		{nil, "pause news --queue general --reason why --for 2h", "paused on 1 of 1 nodes\n", false},
		{[]string{"c"}, "pause news --queue general --reason why --for 2h", "paused on 1 of 2 nodes; c has not confirmed; it gets it when it is reachable\n", false},
		{[]string{"b", "c"}, "priority news.example.com 4", "set on 1 of 3 nodes; b, c have not confirmed; they get it when they are reachable\n", false},
		{[]string{"c"}, "pause news --queue general --reason why --for 2h --here", "", true},
		{[]string{"c"}, "priority --here news.example.com 4", "", true},
	} {
		here := !x.here
		config := serve(t, inFleet{backend: messages(), missing: x.missing, here: &here})
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(x.args)...)...)
		if r.code != 0 || r.stdout != x.want || r.stderr != "" || here != x.here {
			t.Errorf("millrace %s: exit code %d, here %v\n%s\n%s", x.args, r.code, here, r.stdout, r.stderr)
		}
	}
}

// outOfOrders is an agent in a fleet whose orders it neither gives nor takes.
type outOfOrders struct{ inFleet }

func (outOfOrders) Spread(context.Context) control.Spread {
	return control.Spread{Alone: "this node has no certificate; remedy: get one"}
}

func TestCommandsSayThatAnOrderIsForThisNodeAlone(t *testing.T) {
	t.Parallel()
	here := false
	config := serve(t, outOfOrders{inFleet{backend: messages(), here: &here}})
	for args, want := range map[string]string{
		"pause news --queue general --reason why --for 2h":        "millrace: warning: paused on this node only: this node has no certificate; remedy: get one\n",
		"priority news.example.com 4":                             "millrace: warning: set on this node only: this node has no certificate; remedy: get one\n",
		"pause news --queue general --reason why --for 2h --here": "",
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(args)...)...)
		if r.code != 0 || r.stdout != "" || r.stderr != want {
			t.Errorf("millrace %s: exit code %d\n%s\n%s", args, r.code, r.stdout, r.stderr)
		}
	}
}

// Mail of a user may be on other nodes alone: a cancel that finds none here is no failure, and reaches them.
func TestCancelInAFleetIsForMailOfOtherNodes(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"cancel --user nobody", 1, "", "This ends no recipients of no messages here, and what there is on all other nodes of the fleet (user nobody), for good, without telling their senders. Say --yes"},
		{"cancel --user nobody --yes", 0, "ordered on 1 of 2 nodes; c has not confirmed; it gets it when it is reachable\nnothing on this node\n", ""},
		{"cancel --user nobody --here", 1, "", "nothing to cancel: user nobody"},
		{"cancel --user nobody --here --yes", 1, "", "nothing to cancel: user nobody"},
		{"expire --user nobody", 1, "", "nothing to expire: user nobody"},
	} {
		here := false
		config := serve(t, inFleet{backend: messages(), missing: []string{"c"}, here: &here})
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(x.args)...)...)
		if r.code != x.code || r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) {
			t.Errorf("millrace %s: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
	}
}
