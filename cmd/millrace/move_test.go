package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

func (b backend) Transfers() []control.Transfer {
	if len(b) == 0 {
		return nil
	}
	began := time.Date(2023, 11, 14, 22, 13, 20, 0, time.Local)
	return []control.Transfer{
		{ID: "20231114-221320-0a", Node: "b", Began: began, Messages: 200, Recipients: 256, Why: "node b: connection refused"},
		{ID: "20231114-221320-0b", Node: "c", In: true, Began: began, Messages: 1, Recipients: 1, Why: "node c has not confirmed it"},
		{ID: "20231114-221320-0c", Node: "d", Kept: true, Began: began, Why: "node d: connection refused"},
	}
}

func (b backend) EndTransfer(_ context.Context, o control.TransferOrder) (control.Selected, error) {
	if o.ID == "none" {
		return control.Selected{}, fmt.Errorf("transfer %s: %w", o.ID, control.ErrUnknown)
	}
	if o.Accept != strings.HasSuffix(o.ID, "b") {
		return control.Selected{}, fmt.Errorf("order %+v", o)
	}
	return control.Selected{Recipients: 256, Messages: 200}, nil
}

func TestMoveVerb(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args   []string
		code   int
		stdout string // all of it
		stderr string // a part
	}{
		{args: []string{"move"}, code: 64, stderr: "say one of --to"},
		{args: []string{"move", "--to", "b", "--list"}, code: 64, stderr: "say one of --to"},
		{args: []string{"move", "--to", "b"}, code: 64, stderr: "say which mail"},
		{args: []string{"move", "--to", "b", "--user", "joe"}, code: 1, stderr: "--yes"},
		{args: []string{"move", "--to", "b", "--user", "joe", "--yes"}, stdout: "100,000 recipients of 90,000 messages moved to node b\n" +
			"1 recipient in transactions under way; run it again for what comes back\n"},
		{args: []string{"move", "--to", "b", "--user", "nobody"}, code: 1, stderr: "nothing to move: user nobody"},
		{args: []string{"move", "--to", "b", "--all"}, stdout: "Nothing to move\n"},
		{args: []string{"move", "--to", "b", "--domain", "x.example", "--yes"}, code: 1, stderr: "7 recipients moved to node b until then"},
		{args: []string{"move", "--list"}, stdout: "20231114-221320-0a  to b  since 2023-11-14 22:13:20  256 recipients of 200 messages: node b: connection refused\n" +
			"20231114-221320-0b  from c  since 2023-11-14 22:13:20  1 recipient of 1 message: node c has not confirmed it\n" +
			"20231114-221320-0c  to d  since 2023-11-14 22:13:20  kept here: node d: connection refused\n"},
		{args: []string{"move", "--abandon", "20231114-221320-0a"}, code: 1, stderr: "--yes"},
		{args: []string{"move", "--abandon", "20231114-221320-0a", "--yes"}, stdout: "256 recipients of 200 messages kept here\n"},
		{args: []string{"move", "--accept", "20231114-221320-0b", "--yes"}, stdout: "256 recipients of 200 messages accepted\n"},
		{args: []string{"move", "--abandon", "none", "--yes"}, code: 1, stderr: "transfer none: not known"},
	} {
		r := millrace(t, "", append([]string{"--config", config}, x.args...)...)
		if r.code != x.code || x.code == 0 && r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) {
			t.Errorf("%q: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
	}
	if r := millrace(t, "", "--config", config, "move", "--list", "--json"); strings.Count(r.stdout, "\n") != 3 || !strings.Contains(r.stdout, `"id":"20231114-221320-0b","node":"c","in":true`) {
		t.Errorf("%s\n%s", r.stdout, r.stderr)
	}
}
