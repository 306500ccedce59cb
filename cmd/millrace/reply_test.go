package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

func TestReplyIsReadWithoutAnAgent(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"550 5.1.1 <x@example.com>: User unknown"}, "userunknown, hard: bounce (rule unknown)\n"},
		{[]string{"--stage", "data", "--mx", "aspmx.l.google.com", "421 4.7.27 SPF did not pass"}, "authentication: retry, the stream is held for 1h0m, after 3 of them within 10m0s (rule google-unauthenticated)\n"},
		{[]string{"450 4.2.0 Greylisted, try again in 300 seconds", "--json"}, `{"class":"greylisted","hard":false,"action":"retry","rule":"greylisting","greylisted":true,"wait":300}` + "\n"},
		{[]string{"550", "xyzzy"}, "undefined: bounce (rule none)\n"},
		{[]string{"250 2.0.0 Ok"}, "none: deliver (rule none)\n"},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", "/nonexistent", "reply"}, x.args...)...)
		if r.code != 0 || r.stdout != x.want {
			t.Errorf("%q: %d, %q%s; want %q", x.args, r.code, r.stdout, r.stderr, x.want)
		}
	}
	for _, args := range [][]string{{"reply"}, {"reply", "what"}, {"reply", "--unknown", "550 x"}} {
		if r := millrace(t, "TZ=UTC", append([]string{"--config", "/nonexistent"}, args...)...); r.code == 0 {
			t.Errorf("%q: %q", args, r.stdout)
		}
	}
}

func TestRepliesAreReadInBatches(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(in string, args ...string) (string, error) {
		cmd := exec.Command(exe, append([]string{"--config", "/nonexistent", "reply", "-"}, args...)...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.Stdin = strings.NewReader(in)
		out, err := cmd.Output()
		return string(out), err
	}
	out, err := run("rcpt\t-\t550 5.1.1 User unknown\ndata\taspmx.l.google.com\t421 4.7.28 unusual rate\nmail\t-\t550 5.1.1 Sender unknown\n", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var got []replyAnswer
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var a replyAnswer
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		got = append(got, a)
	}
	if len(got) != 3 || !got[0].Hard || got[1].Class != "ratelimited" || got[1].Rule != "google-rate" || got[2].Hard || got[2].Class != "policy" {
		t.Errorf("%+v", got)
	}
	if out, err := run("rcpt\t-\t450 busy\n"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run("rcpt 550 no\n"); err == nil {
		t.Error("a line without tabs is read")
	}
	if out, err := run("rcpt\t-\t550 5.1.1 " + strings.Repeat("x", 100_000) + "\nrcpt\t-\t450 busy\n"); err != nil || strings.Count(out, "\n") != 2 {
		t.Errorf("a long line: %q, %v", out, err)
	}
	var failed *exec.ExitError
	if _, err := run("rcpt\t-\t450 busy\nrcpt\t-\t550 " + strings.Repeat("x", maxReplyLine)); !errors.As(err, &failed) || !strings.Contains(string(failed.Stderr), "line 2: it is longer") {
		t.Errorf("a line that is too long: %v", err)
	}
}

// oddities is an agent that met replies it did not know, and has a site suspended.
type oddities struct{ backend }

func (o oddities) Totals() control.Totals {
	t := o.backend.Totals()
	t.Unknown, t.UnknownReplies = 3, []control.UnknownReply{{Count: 3, Example: "host mx.far.test[192.0.2.1] said: 550 xyzzy (in reply to RCPT TO command)"}}
	return t
}

func (o oddities) Standing() control.StandingOrders {
	s := o.backend.Standing()
	s.Effects = []control.Effect{{Site: "yahoo", Rule: "yahoo-volume-2h", Action: "suspend", Reason: "yahoo-volume-2h: 421 [TSS04]", Since: s.Pauses[0].Since, Until: s.Pauses[0].Until}}
	return s
}

func (o oddities) Resume(_ context.Context, _ control.Filter) ([]control.Pause, error) {
	return nil, nil
}

func TestWhatNothingKnewAndWhatRulesDoIsListed(t *testing.T) {
	t.Parallel()
	config := serve(t, oddities{messages()})
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{"reply", "--unknown"}, "        3  host mx.far.test[192.0.2.1] said: 550 xyzzy (in reply to RCPT TO command)\n"},
		{[]string{"stats"}, "\nReplies that no rule knew: 3 (millrace reply --unknown has more)\n        3  host mx.far.test"},
		{[]string{"brakes"}, "by rule: site yahoo is suspended until 2023-11-14 23:13:20: yahoo-volume-2h: 421 [TSS04]\n"},
		{[]string{"resume", "--site", "yahoo"}, "lifted: site yahoo is suspended; the rule may do so again when the receiver says the same\n"},
	} {
		if r := millrace(t, "TZ=UTC", append([]string{"--config", config}, x.args...)...); r.code != 0 || !strings.Contains(r.stdout, x.want) {
			t.Errorf("%q: %d, %q%s; want %q", x.args, r.code, r.stdout, r.stderr, x.want)
		}
	}
}
