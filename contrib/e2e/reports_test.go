package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// dialect is a report as one kind of receiver writes it: package agent/feedback has them.
type dialect struct {
	name, kind string // the event, "none" for no event
	suppresses bool
	text       string
}

// dialects are all of them.
func dialects(t *testing.T) []dialect {
	t.Helper()
	files, err := filepath.Glob("../../agent/feedback/testdata/*/*.eml")
	if err != nil || len(files) == 0 {
		t.Fatal(err, len(files))
	}
	var list []dialect
	for _, file := range files {
		head, text, _ := strings.Cut(read(t, file), "\n\n")
		d := dialect{name: filepath.Base(file), text: text}
		_, want, _ := strings.Cut(head, "# want: ")
		d.kind, want, _ = strings.Cut(want, " ")
		d.suppresses = d.kind == "complaint" || strings.Contains(want, "hard")
		list = append(list, d)
	}
	return list
}

// about is the report on a copy that has arrived, to its return path.
func (d *dialect) about(a arrival, rcpt string) string {
	received := a.content
	for i := 0; ; { // our field is the first
		end := strings.Index(received[i:], "\r\n")
		if i += end + 2; end < 0 || i == len(received) || received[i] != ' ' && received[i] != '\t' {
			received = received[:i-2]
			break
		}
	}
	s := strings.NewReplacer("@RCPT@", rcpt, "@FROM@", a.sender, "@RECEIVED@", received).Replace(strings.ReplaceAll(d.text, "\n", "\r\n"))
	if before, rest, ok := strings.Cut(s, "@BASE64:"); ok {
		plain, after, _ := strings.Cut(rest, "\r\n@")
		s = before + base64.StdEncoding.EncodeToString([]byte(plain+"\r\n")) + after
	}
	return s
}

// cameBack is an event about what came back.
type cameBack struct {
	Event, ID, Recipient, Stream string
	Counted                      *bool
	Uncounted                    string
}

// cameBack reads the events about what came back from an event file.
func (r *room) cameBack(file string) (list []cameBack) {
	r.t.Helper()
	for line := range strings.Lines(read(r.t, file)) {
		var e cameBack
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // it is being written
		}
		if e.Counted != nil {
			list = append(list, e)
		}
	}
	return list
}

// suppressed are the addresses on the suppression list, with their streams.
func (r *room) suppressed() []string {
	r.t.Helper()
	var list []string
	for line := range strings.Lines(r.verb("suppress", "list", "--json")) {
		var e struct{ Address, Stream string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			r.t.Fatal(err)
		}
		list = append(list, e.Stream+" "+e.Address)
	}
	slices.Sort(list)
	return list
}

// reportsRead waits until the milter has read all that passed it, which a stop makes it do,
// and the agent has taken it.
func (r *room) reportsRead() {
	r.t.Helper()
	r.stop(r.Millrace.Milter)
	r.until("the agent takes the reports", func() bool { return r.reportsWait() == 0 })
	r.start(r.Millrace.Milter)
}

func (r *room) reportsWait() int {
	list, _ := filepath.Glob(filepath.Join(r.Millrace.Spool(), "reports", "*.eml"))
	return len(list)
}

// outsider sends reports from outside, as a receiver does.
func (r *room) outsider() *peer {
	r.t.Helper()
	outside, err := lab.Outside()
	if err != nil {
		r.t.Fatal(err)
	}
	return r.strangers(outside)
}

func (r *room) strangers(from netip.Addr) *peer {
	p := r.call(from, r.Host.SMTPAddr())
	p.says("250", "EHLO remote.test")
	return p
}

// Reports of twenty kinds of receivers and ten of complaints come home through Postfix, each
// about a message that was delivered: they arrive where they were addressed, octet by octet,
// and give their event, and what follows for the address.
func TestReportsAreReadInPassing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events.jsonl")
	r := enter(t, setup{keep: true, millrace: lab.MillraceOptions{Set: map[string]string{
		"feedback.read": "true", "suppression.mode": `"drop"`, "suppression.after": "1", "events.file": strconv.Quote(file),
	}}})
	all := dialects(t)
	for i := range all {
		r.send("news@lab.test", []string{fmt.Sprintf("u%d@far.test", i)}, news(fmt.Sprintf("n%d", i)))
	}
	r.until("every copy", func() bool { return len(r.all()) == len(all) })
	sent := make(map[string]arrival)
	for _, a := range r.all() {
		if !a.ours() {
			t.Fatalf("%s went by the host", a.id)
		}
		sent[a.id] = a
	}
	var reports, suppressed []string
	want := make(map[string]string) // event by recipient
	p := r.outsider()
	for i, d := range all {
		rcpt := fmt.Sprintf("u%d@far.test", i)
		reports = append(reports, d.about(sent[fmt.Sprintf("n%d", i)], rcpt))
		qid := p.sends("<>", []string{"<news@lab.test>"}, strings.ReplaceAll(reports[i], "\r\n.", "\r\n.."))
		if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") {
			t.Errorf("%s: %s", d.name, line)
		}
		if d.kind != "none" {
			want[rcpt] = d.kind
		}
		if d.suppresses {
			suppressed = append(suppressed, "news.lab.test "+rcpt)
		}
	}
	slices.Sort(suppressed)
	r.until("every event", func() bool { return len(r.cameBack(file)) >= len(want) })
	r.reportsRead()
	got := make(map[string]string)
	for _, e := range r.cameBack(file) {
		got[e.Recipient] = e.Event
		if e.Stream != "news.lab.test" || e.ID == "" || *e.Counted != (e.Event != "feedback") {
			t.Errorf("event %+v", e)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	if got := r.suppressed(); !slices.Equal(got, suppressed) {
		t.Errorf("suppressed: %v, want %v", got, suppressed)
	}
	home := r.mailbox("news@lab.test", len(reports))
	for i, text := range reports {
		lf := []byte(strings.ReplaceAll(text, "\r\n", "\n"))
		if !slices.ContainsFunc(home, func(m lab.Message) bool { return bytes.HasSuffix(m.Content, lf) }) {
			t.Errorf("%s has not come home as it was sent", all[i].name)
		}
	}
	if len(home) != len(reports) {
		t.Errorf("%d messages came home, of %d", len(home), len(reports))
	}

	// All of it again changes nothing, nor do marks that are changed.
	before := len(r.cameBack(file))
	p = r.outsider()
	for _, text := range reports {
		p.sends("<>", []string{"<news@lab.test>"}, strings.ReplaceAll(text, "\r\n.", "\r\n.."))
	}
	for _, text := range reports[:5] {
		p.sends("<>", []string{"<news@lab.test>"}, strings.ReplaceAll(text, " (Millrace) with", " (Millrace) by x with"))
		i := strings.Index(text, "\r\n\t(") + len("\r\n\t(")
		p.sends("<>", []string{"<news@lab.test>"}, text[:i]+"AAAA"+text[i+4:])
	}
	r.reportsRead()
	// What has lost its seal and has its hash is told, once, and counts for nothing.
	r.until("the events", func() bool { return len(r.cameBack(file)) >= before+5 })
	again := r.cameBack(file)[before:]
	if len(again) != 5 {
		t.Errorf("%d events, want 5", len(again))
	}
	for _, e := range again {
		if *e.Counted || e.Uncounted == "" || e.Recipient != "" {
			t.Errorf("a replay or a forgery counts: %+v", e)
		}
	}
	if got := r.suppressed(); !slices.Equal(got, suppressed) {
		t.Errorf("suppressed after replays: %v", got)
	}
}

// One subscriber's copy changes nothing for others, reports wait while the agent is away, and
// one may come by a pipe.
func TestReportsOfOneSubscriberAndOfAPipe(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events.jsonl")
	r := enter(t, setup{keep: true, millrace: lab.MillraceOptions{Set: map[string]string{
		"feedback.read": "true", "suppression.mode": `"drop"`, "suppression.after": "1", "events.file": strconv.Quote(file),
	}}})
	d := dialects(t)[slices.IndexFunc(dialects(t), func(d dialect) bool { return d.name == "postfix.eml" })]
	r.send("news@lab.test", []string{"ann@far.test", "bob@far.test"}, news("both"))
	r.send("news@lab.test", []string{"bob@far.test"}, news("bob's"))
	r.until("every copy", func() bool { return len(r.all()) == 3 })
	both, bobs := r.copies("both")[0], r.copies("bob's")[0]
	r.stop(r.Millrace.Agent)
	p := r.outsider()
	p.sends("<>", []string{"<news@lab.test>"}, d.about(both, "ann@far.test"))
	p.sends("<>", []string{"<news@lab.test>"}, d.about(bobs, "ann@far.test"))
	r.until("the milter keeps both", func() bool { return r.reportsWait() == 2 })
	r.start(r.Millrace.Agent)
	r.until("both are told", func() bool { return len(r.cameBack(file)) == 2 })
	for _, e := range r.cameBack(file) {
		if *e.Counted || e.Uncounted == "" {
			t.Errorf("%+v", e)
		}
	}
	if got := r.suppressed(); len(got) != 0 {
		t.Errorf("suppressed: %v", got)
	}
	report := filepath.Join(t.TempDir(), "report.eml")
	if err := os.WriteFile(report, []byte(d.about(bobs, "bob@far.test")), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := r.verb("feedback", report); !strings.Contains(said, `failed <bob@far.test> of `+bobs.spool+` in stream "news.lab.test": counted`) {
		t.Errorf("said: %s", said)
	}
	if said := r.verb("feedback", report); !strings.Contains(said, ": repeated") {
		t.Errorf("said: %s", said)
	}
	if got := r.suppressed(); !slices.Equal(got, []string{"news.lab.test bob@far.test"}) {
		t.Errorf("suppressed: %v", got)
	}
}

// Where the host is a Sendmail, reports are read in passing as well, and come home unchanged.
func TestSendmailReportsAreReadInPassing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "events.jsonl")
	r := enter(t, setup{keep: true, sendmail: &lab.SendmailOptions{}, millrace: lab.MillraceOptions{Set: map[string]string{
		"feedback.read": "true", "suppression.mode": `"drop"`, "suppression.after": "1", "events.file": strconv.Quote(file),
	}}})
	all := dialects(t)
	var reports []string
	for i, name := range []string{"postfix.eml", "qmail.eml", "arf-yahoo.eml"} {
		rcpt := fmt.Sprintf("u%d@far.test", i)
		r.send("news@lab.test", []string{rcpt}, news(name))
		r.until("the copy", func() bool { return len(r.copies(name)) == 1 })
		d := all[slices.IndexFunc(all, func(d dialect) bool { return d.name == name })]
		reports = append(reports, d.about(r.copies(name)[0], rcpt))
	}
	p := r.outsider()
	for _, text := range reports {
		qid := p.sends("<>", []string{"<news@lab.test>"}, text)
		if line := r.verdict(qid); !strings.Contains(line, "verdict=leave") {
			t.Error(line)
		}
	}
	r.until("every event", func() bool { return len(r.cameBack(file)) == len(reports) })
	want := []string{"news.lab.test u0@far.test", "news.lab.test u1@far.test", "news.lab.test u2@far.test"}
	if got := r.suppressed(); !slices.Equal(got, want) {
		t.Errorf("suppressed: %v, want %v", got, want)
	}
	home := r.mailbox("news@lab.test", len(reports))
	for i, text := range reports {
		lf := []byte(strings.ReplaceAll(text, "\r\n", "\n"))
		if !slices.ContainsFunc(home, func(m lab.Message) bool { return bytes.HasSuffix(m.Content, lf) }) {
			t.Errorf("report %d has not come home as it was sent:\n%s", i, lf)
		}
	}
	if t.Failed() {
		for _, m := range home {
			t.Logf("%s", m.Content)
		}
	}
}
