package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/abreast"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/rig"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/sockets"
	"github.com/millrace/millrace/contrib/lab/tidy"
)

func TestMain(m *testing.M) {
	abreast.Wait(3) // for a Postfix: on two cores six take half the time of two
	tidy.Main(m, lab.WithPrograms)
}

// How long a test may take in all, and wait for one thing. That is for slow
// machines and programs with the race detector; nothing is timed.
const (
	patience = 8 * time.Minute
	waiting  = 4 * time.Minute
)

// setup says how a room differs from the plain one: a Postfix with our milter,
// both daemons, and one provider "far" with the domains of farDomains.
type setup struct {
	providers []sink.Provider // instead of the one
	postfix   lab.PostfixOptions
	sendmail  *lab.SendmailOptions // the host is a Sendmail, and no Postfix
	offering  *lab.OfferingOptions // the host is an Exim or OpenSMTPD, and no Postfix
	millrace  lab.MillraceOptions
	keep      bool                // keep the content of what arrives
	patience  time.Duration       // instead of the usual one
	furnish   func(*lab.Millrace) // called before the daemons start

	// beforeDaemons is called with the receivers running and nothing else yet; it
	// may set keys of the configuration.
	beforeDaemons func(*room)
}

// farDomains are the domains of the plain room's provider.
var farDomains = []string{"far.test", "far.example", "d*.example"}

// room is a host MTA, a Millrace and an internet of their own.
type room struct {
	t   *testing.T
	ctx context.Context
	rig.Rig
	keep bool
	dns  string            // the name server, without port
	keys map[string]string // of the configuration, set by beforeDaemons

	mu       sync.Mutex
	arrivals []arrival
}

// arrival is one recipient's copy at a receiver.
type arrival struct {
	provider, sender, recipient string
	mailArgs, rcptArgs          string // ESMTP arguments, as they came
	id                          string // of the message, by its ledger.IDHeader
	qid, spool                  string // from our trace; "" if it came by the host alone
	content                     string // if the room keeps it
	tls                         bool
	client                      netip.Addr // where the connection came from
}

// ours reports whether Millrace delivered it.
func (a arrival) ours() bool { return a.spool != "" }

// enter starts everything; it ends with the test.
func enter(t *testing.T, s setup) *room {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(s.patience, patience))
	t.Cleanup(cancel)
	r := newRoom(t, ctx)
	r.keep = s.keep
	r.dns = r.internet(s.providers)
	if s.beforeDaemons != nil {
		s.beforeDaemons(r)
		s.millrace.Set = maps.Clone(s.millrace.Set)
		maps.Copy(s.millrace.Set, r.keys)
	}

	r.startHost(s)
	s.millrace.DNS = r.dns
	if err := r.NewMillrace(s.millrace); err != nil {
		t.Fatal(err)
	}
	if s.furnish != nil {
		s.furnish(r.Millrace)
	}
	t.Cleanup(r.endDaemons)
	r.start(r.Millrace.Agent, r.Millrace.Milter)
	return r
}

// newRoom is an empty room. What is started in it ends with the test.
func newRoom(t *testing.T, ctx context.Context) *room {
	r := &room{t: t, ctx: ctx}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// startHost starts the room's MTA.
func (r *room) startHost(s setup) {
	r.t.Helper()
	if s.offering != nil {
		o := *s.offering
		o.DNS, o.Far = r.dns, r.hostOf(0).String()
		if err := r.StartOffering(r.ctx, o); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	if s.sendmail != nil {
		o := *s.sendmail
		o.Millrace, o.DNS = true, r.dns
		if err := r.StartSendmail(r.ctx, o); err != nil {
			r.t.Fatal(err)
		}
		return
	}
	s.postfix.DNS = r.dns
	if s.postfix.Milter == "" {
		s.postfix.Milter = lab.RelativeSocket
	}
	if err := r.StartPostfix(r.ctx, s.postfix); err != nil {
		r.t.Fatal(err)
	}
}

// set sets a key of the configuration before the daemons start.
func (r *room) set(key, value string) {
	if r.keys == nil {
		r.keys = make(map[string]string)
	}
	r.keys[key] = value
}

// endDaemons is an orderly stop, so that the race detector can speak, and a
// look at what the daemons have written.
func (r *room) endDaemons() {
	if err := errors.Join(r.Millrace.Milter.Stop(), r.Millrace.Agent.Stop()); err != nil {
		r.t.Error(err)
	}
	for _, d := range []*lab.Daemon{r.Millrace.Milter, r.Millrace.Agent} {
		log := read(r.t, d.Log())
		for _, bad := range []string{"DATA RACE", "panic", "fatal error"} {
			if i := strings.Index(log, bad); i >= 0 {
				r.t.Errorf("%s:\n%s", d.Log(), log[i:min(len(log), i+4000)])
			}
		}
	}
	if r.t.Failed() {
		for _, path := range []string{r.Host.Log(), r.Millrace.Milter.Log(), r.Millrace.Agent.Log()} {
			r.t.Logf("end of %s:\n%s", path, tail(read(r.t, path), 60))
		}
	}
}

// internet starts the receivers. Rooms are open side by side, so each takes the
// first number whose addresses are all free: that of the name server, and from it those of
// its hosts. A room that has just closed may have given up one and not yet the other, since a
// process that is being started holds our sockets until its exec.
func (r *room) internet(providers []sink.Provider) (dns string) {
	r.t.Helper()
	if providers == nil {
		providers = []sink.Provider{{Name: "far", Domains: farDomains}}
	}
	for n := 1; ; n++ {
		dns = fmt.Sprintf("127.53.0.%d", n)
		err := r.StartInternet(sink.Options{DNS: dns + ":53", Message: r.arrived}, hosted(providers, n)...)
		if err == nil {
			return dns
		}
		if !errors.Is(err, syscall.EADDRINUSE) || n == 100 {
			r.t.Fatal(err)
		}
	}
}

// hostOf is the first host of a provider of the room.
func (r *room) hostOf(provider int) netip.Addr {
	var n byte
	if _, err := fmt.Sscanf(r.dns, "127.53.0.%d", &n); err != nil {
		r.t.Fatal(err)
	}
	return netip.AddrFrom4([4]byte{127, 100 + n, byte(provider + 1), 1})
}

// hosted gives the providers of room n their hosts.
func hosted(providers []sink.Provider, n int) []sink.Provider {
	providers = slices.Clone(providers)
	for i := range providers {
		p := &providers[i]
		p.Host = slices.Clip(p.Host)
		for k := range max(p.Hosts, 1) {
			p.Host = append(p.Host, sink.Host{
				Name: fmt.Sprintf("mx%d.%s.test", k+1, p.Name),
				Addr: netip.AddrFrom4([4]byte{127, byte(100 + n), byte(i + 1), byte(k + 1)}),
			})
		}
	}
	return providers
}

// trace is our Received field, on top of a message; see package agent/trace.
var trace = regexp.MustCompile(`\AReceived: (?:[^\r]|\r\n\s)*?\bby \S+ \(Millrace\)(?:[^\r]|\r\n\s)*?\bid ([^.\s]+)\.(M[0-9A-F]+-[0-9A-F]+)\.`)

// arrived notes what a receiver took, before it answers.
func (r *room) arrived(m *sink.Message) {
	content := string(m.Content)
	a := arrival{provider: m.Provider, sender: m.Sender, mailArgs: strings.Clone(m.MailArgs), tls: m.TLS, client: m.Client}
	if i := strings.Index(content, ledger.IDHeader+": "); i >= 0 {
		id, _, _ := strings.Cut(content[i+len(ledger.IDHeader)+2:], "\r\n")
		a.id = strings.Clone(id)
	}
	if f := trace.FindStringSubmatch(content); f != nil {
		a.qid, a.spool = strings.Clone(f[1]), strings.Clone(f[2])
	}
	if r.keep {
		a.content = content
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rcpt := range m.Recipients {
		a.recipient, a.rcptArgs = strings.Clone(rcpt.Address), strings.Clone(rcpt.Args)
		r.arrivals = append(r.arrivals, a)
	}
}

// all gives the arrivals so far.
func (r *room) all() []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.arrivals)
}

// forget drops what has arrived.
func (r *room) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrivals = nil
}

// copies gives the arrivals of one message.
func (r *room) copies(id string) []arrival {
	return slices.DeleteFunc(r.all(), func(a arrival) bool { return a.id != id })
}

// exactly waits until all is at rest and then holds what has arrived against a
// list of "ID RECIPIENT WAY". The way is "ours" or "postfix"; case in a domain
// does not matter.
func (r *room) exactly(want ...string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d copies", len(want)), func() bool { return len(r.all()) >= len(want) })
	r.rest()
	var got []string
	for _, a := range r.all() {
		way := "postfix"
		if a.ours() {
			way = "ours"
		}
		local, domain, _ := cutLast(a.recipient, "@")
		got = append(got, a.id+" "+local+"@"+strings.ToLower(domain)+" "+way)
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		r.t.Errorf("arrived\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// start starts daemons.
func (r *room) start(daemons ...*lab.Daemon) {
	r.t.Helper()
	for _, d := range daemons {
		if err := d.Start(r.ctx); err != nil {
			r.t.Fatal(err)
		}
	}
}

// rewrite changes a text of the configuration.
func (r *room) rewrite(old, new string) {
	r.t.Helper()
	text := read(r.t, r.Millrace.Config())
	if !strings.Contains(text, old) {
		r.t.Fatalf("no %s in the configuration:\n%s", old, text)
	}
	if err := os.WriteFile(r.Millrace.Config(), []byte(strings.Replace(text, old, new, 1)), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// reload has a daemon read its configuration and waits until it has.
func (r *room) reload(d *lab.Daemon) {
	r.t.Helper()
	const says = "configuration reloaded"
	before := len(logbuf.Lines(read(r.t, d.Log()), says))
	if err := d.Reload(); err != nil {
		r.t.Fatal(err)
	}
	r.until(says, func() bool { return len(logbuf.Lines(read(r.t, d.Log()), says)) > before })
}

// stop stops daemons in order.
func (r *room) stop(daemons ...*lab.Daemon) {
	r.t.Helper()
	for _, d := range daemons {
		if err := d.Stop(); err != nil {
			r.t.Fatal(err)
		}
	}
}

// send sends one message over a connection of its own, as a program on the host
// would, and returns the host's queue id.
func (r *room) send(from string, rcpts []string, content string) (qid string) {
	r.t.Helper()
	c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	reply, err := c.Send(r.ctx, from, rcpts, []byte(content))
	if err != nil {
		r.t.Fatal(err)
	}
	if qid = lab.QueueID(reply); qid == "" {
		r.t.Fatalf("reply %q has no queue id", reply)
	}
	return qid
}

// until waits until a condition holds.
func (r *room) until(what string, holds func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.ctx, waiting)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) { return holds(), nil }); err != nil {
		r.t.Fatalf("never: %s (%v)", what, err)
	}
}

// verdict waits for the milter's line about a message of the host's queue id.
func (r *room) verdict(qid string) string {
	r.t.Helper()
	return r.logLine(r.Millrace.Milter, "verdict", "qid="+qid+" ")
}

// verdicts waits until the milter's log has n lines about verdicts with all the texts, and
// returns all of those. That a message was diverted is logged when the host has been told
// and the agent has it, so its copy may have arrived by then.
func (r *room) verdicts(n int, texts ...string) (lines []string) {
	r.t.Helper()
	texts = append([]string{"verdict="}, texts...)
	r.until(fmt.Sprintf("%d lines with %q in %s", n, texts, r.Millrace.Milter.Log()), func() bool {
		lines = logbuf.Lines(read(r.t, r.Millrace.Milter.Log()), texts...)
		return len(lines) >= n
	})
	return lines
}

// logLine waits for a line of a daemon's log that has all the texts.
func (r *room) logLine(d *lab.Daemon, texts ...string) (line string) {
	r.t.Helper()
	r.until(fmt.Sprintf("a line with %q in %s", texts, d.Log()), func() bool {
		found := logbuf.Lines(read(r.t, d.Log()), texts...)
		if len(found) > 0 {
			line = found[0]
		}
		return len(found) > 0
	})
	return line
}

// hostLines waits until the log of the room's MTA has n lines with all the texts, and
// returns all of those. The MTA writes its log by another process, after the fact.
func (r *room) hostLines(n int, texts ...string) (lines []string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d lines with %q in %s", n, texts, r.Host.Log()), func() bool {
		lines = logbuf.Lines(read(r.t, r.Host.Log()), texts...)
		return len(lines) >= n
	})
	return lines
}

// rest waits until the host's queue and the agent's are empty. What was spooled
// this moment may not be in the agent's queue yet: wait for arrivals first.
func (r *room) rest() {
	r.t.Helper()
	r.until("nothing under way", func() bool {
		st, err := control.NewClient(r.Millrace.Control()).Status(r.ctx)
		if err != nil || st.Loading || st.Waiting+st.Active+st.Deferred > 0 {
			return false
		}
		n, err := r.Host.QueueLength(r.ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		return n == 0
	})
}

// accounts waits until the receivers have at least what was sent, and all is at
// rest, and compares.
func (r *room) accounts(sent *ledger.Ledger) *ledger.Report {
	r.t.Helper()
	var rep *ledger.Report
	seen := -1
	defer func() {
		if r.t.Failed() {
			r.t.Logf("ledgers: %s", rep)
		}
	}()
	r.until("all that was sent has arrived", func() bool {
		if n := r.Internet.Ledger().Len(); n != seen {
			seen = n
			rep = ledger.Compare(sent, r.Internet.Ledger())
		}
		return len(rep.Lost) == 0
	})
	r.rest()
	return ledger.Compare(sent, r.Internet.Ledger())
}

// exact is accounts where every copy has to be there once, with its octets.
func (r *room) exact(sent *ledger.Ledger) {
	r.t.Helper()
	if rep := r.accounts(sent); !rep.Clean() || rep.Excused > 0 {
		r.t.Errorf("ledgers: %s", rep)
	}
}

// mailbox waits for n local copies.
func (r *room) mailbox(addr string, n int) []lab.Message {
	r.t.Helper()
	var got []lab.Message
	r.until(fmt.Sprintf("%d copies in the mailbox of %s", n, addr), func() bool {
		var err error
		if got, err = r.Host.Mailbox(addr); err != nil {
			r.t.Fatal(err)
		}
		return len(got) >= n
	})
	return got
}

// reportSays fails for each text that a delivery report does not have.
func (r *room) reportSays(report []byte, want ...string) {
	r.t.Helper()
	for _, text := range want {
		if !strings.Contains(string(report), text) {
			r.t.Errorf("the report has no %q:\n%s", text, report)
		}
	}
}

// news is a small newsletter: bulk by what its header says.
func news(id string) string {
	return ledger.IDHeader + ": " + id + "\r\n" +
		"From: News <news@lab.test>\r\nTo: Readers <readers@lab.test>\r\nSubject: " + id + "\r\n" +
		"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <" + id + "@lab.test>\r\n" +
		"List-Id: News <news.lab.test>\r\nList-Unsubscribe: <https://lab.test/u>\r\n\r\n" +
		"What is new.\r\n"
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

func tail(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// field is the value of a word in a log line: field(line, "id") of "… id=M1-20 …".
func field(line, name string) string {
	for word := range strings.FieldsSeq(line) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
}

// freePort is a TCP address nobody listens on; whoever tries may have it.
func freePort(t *testing.T) string {
	t.Helper()
	f, addr, err := sockets.Reserve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return addr
}

// check runs "millrace check" against a Postfix, and returns all it says.
func check(ctx context.Context, t *testing.T, m *lab.Millrace, p *lab.Postfix) (lines []string, code int) {
	t.Helper()
	programs, err := lab.Programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "millrace"), "--config", m.Config(), "check", "--postfix-config", p.Config())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), cmd.ProcessState.ExitCode()
}
