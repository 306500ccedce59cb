package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// reading is a report as testdata/report.py reads it.
type reading struct {
	Type       string              `json:"type"`
	ReportType string              `json:"report_type"`
	Subject    string              `json:"subject"`
	Auto       string              `json:"auto"`
	Parts      []string            `json:"parts"`
	Defects    []string            `json:"defects"`
	Message    map[string]string   `json:"message"`
	Recipients []map[string]string `json:"recipients"`
	Returned   map[string]string   `json:"returned"` // header of the original
	Temporary  []string            `json:"temporary"`
	Permanent  []string            `json:"permanent"`
}

// readReports has messages read by Python's email package and by Mailman's bounce
// detection. Debian's Python, since that has the latter.
func (r *room) readReports(list []lab.Message) []reading {
	r.t.Helper()
	var raw [][]byte
	for _, m := range list {
		raw = append(raw, m.Content)
	}
	in, err := json.Marshal(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.ctx, "/usr/bin/python3", "testdata/report.py")
	cmd.Stdin = strings.NewReader(string(in))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%v\n%s", err, &stderr)
	}
	var got []reading
	if err := json.Unmarshal(out, &got); err != nil {
		r.t.Fatal(err)
	}
	for i, x := range got {
		if x.Type != "multipart/report" || x.ReportType != "delivery-status" || len(x.Parts) != 3 || len(x.Defects) > 0 ||
			x.Auto != "auto-replied" || list[i].From != "" {
			r.t.Errorf("from %q: %+v", list[i].From, x)
		}
	}
	return got
}

// told is what reports say of each recipient: "failed 5.1.1 userunknown".
func told(list []reading) map[string][]string {
	all := make(map[string][]string)
	for _, x := range list {
		for _, f := range x.Recipients {
			_, address, _ := strings.Cut(f["final-recipient"], "; ")
			s := strings.TrimSpace(f["action"] + " " + f["status"] + " " + f["x-millrace-bounce-class"])
			all[address] = append(all[address], s)
			slices.Sort(all[address])
		}
	}
	return all
}

// receiversOfAllKinds is an internet of each fate that a recipient can have.
func receiversOfAllKinds() []sink.Provider {
	say := func(c sink.Cause, text string) map[sink.Cause]string { return map[sink.Cause]string{c: text} }
	return []sink.Provider{
		{Name: "far", Domains: []string{"far.test"}},
		{Name: "plain", Domains: []string{"plain.test"}, Behaviour: sink.Behaviour{Hide: []string{"DSN"}}},
		{Name: "strict", Domains: []string{"strict.test"}, Behaviour: sink.Behaviour{PermShare: 1}},
		{Name: "full", Domains: []string{"full.test"}, Behaviour: sink.Behaviour{PermShare: 1, Say: say(sink.CausePerm, "552 5.2.2 Mailbox is over quota")}},
		{Name: "grey", Domains: []string{"grey.test"}, Behaviour: sink.Behaviour{Greylist: 3 * time.Second}},
		{Name: "never", Domains: []string{"never.test"}, Behaviour: sink.Behaviour{TempShare: 1, Say: say(sink.CauseTemp, "452 4.2.2 Mailbox is over quota")}},
		{Name: "silent", Domains: []string{"null.test"}, Behaviour: sink.Behaviour{DNS: sink.NullMX}},
	}
}

// Fifty recipients of one message with mixed fates: each is told of as it was
// asked, to a mailbox that Postfix delivers to, in words that others read.
func TestFiftyRecipientsOfMixedFates(t *testing.T) {
	t.Parallel()
	// Times are for those alone that are never taken: the others may be as late as this machine
	// has them be.
	r := enter(t, setup{keep: true, providers: receiversOfAllKinds(), millrace: lab.MillraceOptions{
		Set:   map[string]string{"general.retry": `["2s"]`},
		Extra: "[[queue]]\nname = \"never\"\ndomains = [\"never.test\"]\nretry = [\"2s\"]\nexpire = \"20s\"\ndelay_warning_time = \"10s\"\n",
	}})
	const sender = "news-bounces+x=1@lab.test" // VERP comes back as it was sent
	const unknown, full, expired = "failed 5.1.1 userunknown", "failed 5.2.2 mailboxfull", "failed 4.4.7 expired"
	const late, relayed = "delayed 4.0.0 mailboxfull", "relayed 2.0.0"
	kinds := []struct {
		n         int
		domain    string
		notify    string
		delivered bool
		told      []string
	}{
		{8, "far.test", "", true, nil},
		{2, "far.test", "SUCCESS,FAILURE", true, nil}, // the receiver's duty: it offers DSN
		{3, "plain.test", "", true, nil},
		{3, "plain.test", "SUCCESS", true, []string{relayed}},
		{1, "plain.test", "NEVER", true, nil},
		{6, "strict.test", "", false, []string{unknown}},
		{2, "strict.test", "FAILURE,DELAY", false, []string{unknown}},
		{2, "strict.test", "SUCCESS", false, nil},
		{2, "strict.test", "NEVER", false, nil},
		{4, "full.test", "", false, []string{full}},
		{5, "grey.test", "", true, nil},
		{3, "never.test", "", false, []string{expired}},
		{2, "never.test", "DELAY,FAILURE", false, []string{late, expired}},
		{1, "never.test", "DELAY", false, []string{late}},
		{1, "never.test", "NEVER", false, nil},
		{3, "gone.test", "", false, []string{"failed 5.1.2 hostunknown"}},
		{2, "null.test", "FAILURE", false, []string{"failed 5.1.10 hostunknown"}},
	}
	want := make(map[string][]string)
	var rcpts, arrive []string
	silent := 0
	for _, k := range kinds {
		for range k.n {
			address := fmt.Sprintf("r%02d@%s", len(rcpts), k.domain)
			arg := fmt.Sprintf("<%s> ORCPT=rfc822;orig+2B%s", address, address)
			if k.notify != "" {
				arg += " NOTIFY=" + k.notify
			}
			rcpts = append(rcpts, arg)
			if k.told != nil {
				want[address] = k.told
				slices.Sort(want[address])
			}
			switch {
			case k.delivered:
				arrive = append(arrive, address)
			case !slices.ContainsFunc(k.told, func(s string) bool { return strings.HasPrefix(s, "failed") }):
				silent++ // asked not to be told
			}
		}
	}
	if len(rcpts) != 50 {
		t.Fatalf("%d recipients", len(rcpts))
	}
	qid := r.send("<"+sender+"> RET=HDRS ENVID=campaign+2B7", rcpts, news("fifty"))
	r.until("all are settled", func() bool {
		log := read(t, r.Millrace.Agent.Log())
		return len(logbuf.Lines(log, "qid="+qid, "status=sent"))+len(logbuf.Lines(log, "qid="+qid, "status=bounced")) == 50
	})
	r.rest()

	box, err := r.Host.Mailbox(sender)
	if err != nil {
		t.Fatal(err)
	}
	reports := r.readReports(box)
	got := told(reports)
	if !maps.EqualFunc(got, want, slices.Equal) {
		for _, a := range slices.Sorted(maps.Keys(want)) {
			if !slices.Equal(got[a], want[a]) {
				t.Errorf("%s: told %q, want %q", a, got[a], want[a])
			}
		}
		for a := range got {
			if want[a] == nil {
				t.Errorf("%s: told %q, want nothing", a, got[a])
			}
		}
	}
	var there, temporary, permanent []string
	for _, a := range r.all() {
		there = append(there, a.recipient)
		if a.sender != sender {
			t.Errorf("%s got it from %s", a.recipient, a.sender)
		}
	}
	slices.Sort(there)
	slices.Sort(arrive)
	if !slices.Equal(there, arrive) {
		t.Errorf("delivered to %q, want %q", there, arrive)
	}
	failed := 0
	for _, x := range reports {
		if x.Message["original-envelope-id"] != "campaign+7" || x.Returned["x-lab-id"] != "fifty" || x.Returned["list-id"] != "News <news.lab.test>" {
			t.Errorf("report %+v", x)
		}
		for _, f := range x.Recipients {
			if f["action"] == "failed" {
				failed++
			}
			if a := strings.TrimPrefix(f["final-recipient"], "rfc822; "); f["original-recipient"] != "rfc822;orig+"+a {
				t.Errorf("%s was %s", a, f["original-recipient"])
			}
			if strings.HasPrefix(f["diagnostic-code"], "smtp; ") != (f["remote-mta"] != "") {
				t.Errorf("%+v", f)
			}
		}
		temporary, permanent = append(temporary, x.Temporary...), append(permanent, x.Permanent...)
	}
	// Every recipient is in exactly one place.
	if len(there)+failed+silent != 50 {
		t.Errorf("%d delivered, %d reported as failed, %d whose sender does not want to know: not 50", len(there), failed, silent)
	}
	// Mailman's detection finds the original recipients: all that failed, and as
	// temporary those that were late.
	if len(permanent) != failed || !slices.Contains(permanent, "orig+r19@strict.test") || len(temporary) != 3 {
		t.Errorf("Mailman reads %d failed, %q; %d late, %q", len(permanent), permanent, len(temporary), temporary)
	}
	// Those that failed together were reported together: within the window all but
	// the expired ones; one report was for success, one for delay.
	if len(reports) > 6 {
		t.Errorf("%d reports of one message", len(reports))
	}
	t.Logf("%d reports: %d delivered, %d failed, %d not to be told", len(reports), len(there), failed, silent)
}

// Mail that has been deferred for five days goes back to its sender, and mail
// without a sender to nobody. The clock is a real one: the messages stand in the
// spool as if the milter had put them there five days ago.
func TestFiveDaysOfDeferralsEnd(t *testing.T) {
	t.Parallel()
	r := enter(t, setup{providers: receiversOfAllKinds(), millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["2s"]`}}})
	w, err := spool.OpenWriter(r.Millrace.Spool(), spool.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for qid, sender := range map[string]string{"4LATE": "news@lab.test", "4NULL": ""} {
		receipt, err := w.Append(r.ctx, &spool.Envelope{
			Sender: sender, QueueID: qid, Arrived: time.Now().Add(-5*24*time.Hour + 15*time.Second), // a try is to be before
			Recipients: []spool.Recipient{{Address: "a@never.test"}, {Address: "b@strict.test"}},
		}, strings.NewReader(news(qid)))
		if err == nil {
			err = receipt.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, qid := range []string{"4LATE", "4NULL"} {
		r.logLine(r.Millrace.Agent, "qid="+qid, "to=<a@never.test>", "status=bounced", "expired after 5d")
		r.logLine(r.Millrace.Agent, "qid="+qid, "to=<b@strict.test>", "status=bounced", "dsn=5.1.1")
		if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "qid="+qid, "to=<a@never.test>", "status=deferred"); len(lines) == 0 {
			t.Errorf("%s was not tried before it expired: %q", qid, lines)
		}
	}
	r.rest()
	got := r.readReports(r.mailbox("news@lab.test", 2))
	want := map[string][]string{"a@never.test": {"failed 4.4.7 expired"}, "b@strict.test": {"failed 5.1.1 userunknown"}}
	if !maps.EqualFunc(told(got), want, slices.Equal) || got[0].Message["arrival-date"] == "" {
		t.Errorf("%+v", got)
	}
	if lines := logbuf.Lines(read(t, r.Millrace.Agent.Log()), "sender non-delivery notification"); len(lines) != 2 {
		t.Errorf("%d reports, want the two to news@lab.test:\n%s", len(lines), strings.Join(lines, "\n"))
	}
}

// A sender that declared SMTPUTF8 gets reports in UTF-8 (RFC 6533), by Postfix. (An
// older Millrace has diverted such recipients.)
func TestInternationalBounce(t *testing.T) {
	t.Parallel()
	var r *room
	s := setup{providers: receiversOfAllKinds(), beforeDaemons: func(in *room) { r = in }}
	s.furnish = func(m *lab.Millrace) {
		r.put(m, letter{
			id: "utf8", from: "news@lab.test", args: []string{"SMTPUTF8", "RET=FULL"},
			to:      []spool.Recipient{{Address: "jörg@strict.test", Args: []string{"NOTIFY=FAILURE", "ORCPT=utf-8;j\\x{F6}rg@strict.test"}}},
			content: strings.Replace(news("utf8"), "Subject: utf8", "Subject: grüße", 1),
		})
	}
	enter(t, s)
	got := r.readReports(r.mailbox("news@lab.test", 1))
	r.rest()
	x := got[0]
	if want := []string{"text/plain", "message/global-delivery-status", "message/global"}; !slices.Equal(x.Parts, want) {
		t.Errorf("parts %q, want %q", x.Parts, want)
	}
	if f := x.Recipients[0]; f["final-recipient"] != "utf-8; jörg@strict.test" || f["original-recipient"] != "utf-8;jörg@strict.test" || f["status"] != "5.1.1" || x.Returned["subject"] != "grüße" {
		t.Errorf("%+v", x)
	}
}
