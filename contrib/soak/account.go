package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/repeats"
)

// What a daemon at rest may hold beyond the most it held in the warm-up, when all
// was well and mail flowed, and how many goroutines it may have then: the agent keeps
// 128 for looking ways up.
const (
	moreMemory      = 64 << 20 // octets, and as much again as in the warm-up
	moreDescriptors = 16
	mostGoroutines  = 200
)

// errViolated says that a run has shown what must not be.
var errViolated = errors.New("what must always hold does not hold")

// settle waits until all mail is out, draws up the account and prints it.
func (s *scene) settle() error {
	report, empty := s.emptied()
	fmt.Fprintf(s.out, "\nevents %d (agent killed %d times with %d sessions open; Postfix stopped %d times; %d starts of a daemon tried again; receivers cut %d connections)\n",
		s.events.Load(), s.crashes.Load(), s.open.Load(), s.postfixStops.Load(), s.refusals.Load(), s.cut.Load())
	fmt.Fprintf(s.out, "ledgers: %d messages sent, %d copies of them; %d received, %d refused for good: lost %d, altered %d, stray %d\n", s.sent.Messages(),
		report.Sent, report.Received, len(report.Refused), len(report.Lost), len(report.Altered), len(report.Stray))
	lost := "lost"
	if !empty {
		lost = "lost, or still queued"
	}
	for what, list := range map[string][]ledger.Copy{lost: report.Lost, "altered": report.Altered, "stray": report.Stray} {
		if len(list) > 0 {
			s.violation("%d copies %s, the first %s to %s", len(list), what, list[0].ID, list[0].Recipient)
		}
	}
	logs, err := s.logs()
	if err != nil {
		return err
	}
	s.duplicates(report, logs)
	s.ways()
	if err := s.bounces(report); err != nil {
		return err
	}
	s.ready()
	s.rest()
	s.said(logs)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) > 0 {
		return fmt.Errorf("seed %d: %w:\n  %s", s.seed, errViolated, strings.Join(s.violations, "\n  "))
	}
	fmt.Fprintln(s.out, "\nall that must always hold holds.")
	return nil
}

// emptied waits until both queues are empty, gives the comparison then, and says if they are. As an
// admin would after such a day, it has both try their deferred mail at once: a report
// that found no room in the spool, for one, would wait for five minutes.
func (s *scene) emptied() (report *ledger.Report, empty bool) {
	ctx, cancel := context.WithTimeout(s.ctx, s.settings.drain)
	defer cancel()
	began, flushed := time.Now(), time.Now()
	waiting := ""
	err := lab.Until(ctx, func() (bool, error) {
		st, err := s.client.Status(ctx)
		if err != nil {
			waiting = err.Error()
			return false, nil
		}
		n, err := s.Postfix.QueueLength(ctx)
		if err != nil {
			return false, err
		}
		if time.Since(flushed) > 3*time.Second {
			flushed = time.Now()
			// A hold that a killed agent could not release, too.
			for _, v := range []control.Verb{control.VerbRelease, control.VerbFlush} {
				if err := s.insist(act(v), control.Filter{All: true}); err != nil {
					return false, err
				}
			}
			if err := s.Postfix.Flush(ctx); err != nil {
				return false, err
			}
		}
		left := st.Queued()
		if st.Loading {
			left = max(left, 1)
		}
		waiting = fmt.Sprintf("%d recipients in the agent's queue, %d messages in Postfix's", left, n)
		return left == 0 && n == 0, nil
	})
	if err != nil {
		s.violation("the queues are not empty after %v: %s: %v", s.settings.drain, waiting, err)
	}
	fmt.Fprintf(s.out, "drained in %v\n", time.Since(began).Round(100*time.Millisecond))
	return ledger.Compare(&s.sent, s.Internet.Ledger()), err == nil
}

// logs is what both daemons have said.
func (s *scene) logs() (string, error) {
	var all strings.Builder
	for _, d := range []*daemon{s.agent, s.milter} {
		b, err := os.ReadFile(d.Log())
		if err != nil {
			return "", err
		}
		all.Write(b)
	}
	return all.String(), nil
}

// duplicates explains the copies too many and bounds their number.
func (s *scene) duplicates(report *ledger.Report, logs string) {
	orphans := repeats.Orphans(logs)
	s.mu.Lock()
	arrivals := slices.Clone(s.arrivals)
	s.mu.Unlock()
	x := repeats.Explain(repeats.Evidence{Sent: &s.sent, Received: s.Internet.Ledger(), Arrivals: arrivals, Orphans: orphans})
	allowed := int(s.open.Load() + s.cut.Load())
	fmt.Fprintf(s.out, "copies too many: %d; transactions repeated by the agent %d (allowed: %d), copies of orphans %d (%d orphans), "+
		""+
		"messages handed back twice %d (allowed: %d), offered again by the injector %d, after a receiver's silence %d, by Postfix itself %d, unexplained %d\n",
		report.Received-report.Sent+len(report.Refused), x.Repeats, allowed, x.Orphans, len(orphans), x.Back, s.openBack.Load(), x.Offered, x.Dropped, x.Host, len(x.Unlawful))
	if x.Repeats > allowed {
		s.violation("%d transactions repeated, %d sessions were cut", x.Repeats, allowed)
	}
	if x.Back > int(s.openBack.Load()) {
		s.violation("%d messages handed back twice, %d sessions with the host were cut", x.Back, s.openBack.Load())
	}
	if x.Host > 0 && s.postfixStops.Load()+s.cut.Load() == 0 {
		s.violation("Postfix repeated %d copies, though nothing was cut", x.Host)
	}
	for i, text := range x.Unlawful {
		if i == 10 {
			s.violation("and %d more copies that nothing explains", len(x.Unlawful)-i)
			break
		}
		s.violation("%s", text)
	}
}

// ways checks that mail which is not bulk never came by us.
func (s *scene) ways() {
	s.mu.Lock()
	ours, back, wrong := 0, 0, 0
	for _, a := range s.arrivals {
		switch {
		case a.Back:
			back++
		case a.Spool != "":
			ours++
		default:
			continue
		}
		if strings.HasPrefix(a.Copy.ID, inject.TransactionalPrefix) {
			wrong++
		}
	}
	all := len(s.arrivals)
	s.mu.Unlock()
	fmt.Fprintf(s.out, "by Millrace %d copies, handed back %d, by Postfix alone %d\n", ours, back, all-ours-back)
	if wrong > 0 {
		s.violation("%d copies of transactional mail were diverted", wrong)
	}
	if ours == 0 {
		s.violation("nothing was diverted")
	}
}

var finalRecipient = regexp.MustCompile(`(?im)^Final-Recipient: rfc822; *(\S+)`)

// bounces checks that each recipient that a receiver refused for good has been
// reported to the sender. Reports may come twice after a crash.
func (s *scene) bounces(report *ledger.Report) error {
	told, reports := make(map[string]bool), 0
	for _, d := range senders {
		for _, box := range []string{"bounce@", "orders@"} {
			list, err := s.Postfix.Mailbox(box + d)
			if err != nil {
				return err
			}
			reports += len(list)
			for _, m := range list {
				for _, f := range finalRecipient.FindAllSubmatch(m.Content, -1) {
					told[strings.ToLower(string(f[1]))] = true
				}
			}
		}
	}
	untold := make(map[string]bool)
	for _, c := range report.Refused {
		if !told[strings.ToLower(c.Recipient)] {
			untold[c.Recipient] = true
		}
	}
	fmt.Fprintf(s.out, "bounces: %d copies refused for good, %d reports, %d recipients not reported\n", len(report.Refused), reports, len(untold))
	if len(untold) > 0 {
		s.violation("%d refused recipients not reported, as %s", len(untold), slices.Sorted(maps.Keys(untold))[0])
	}
	return nil
}

// ready asks /readyz.
func (s *scene) ready() {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+httpAddr+"/readyz", nil)
	if err != nil {
		s.violation("readyz: %v", err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.violation("readyz: %v", err)
		return
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	fmt.Fprintf(s.out, "readyz: %d\n", resp.StatusCode)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.violation("readyz: %d %s %v", resp.StatusCode, said, err)
	}
}

// rest looks at the daemons, which have nothing to do any more, and ends them by
// SIGQUIT: then the Go runtime lists all goroutines.
func (s *scene) rest() {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	err := lab.Until(ctx, func() (bool, error) { // sessions wait a while for more
		st, err := s.client.Status(ctx)
		return err == nil && st.Sessions == 0, err
	})
	if err != nil {
		s.violation("the agent keeps sessions without mail: %v", err)
	}
	s.client.Close()
	for _, d := range []*daemon{s.agent, s.milter} {
		if !d.Running() {
			s.violation("the %s had ended by itself", d.name)
			continue
		}
		s.watch.mu.Lock()
		warm, peak := s.watch.warm[d.name], s.watch.peak[d.name]
		s.watch.mu.Unlock()
		end, err := use(d.PID())
		if err != nil {
			s.violation("the %s: %v", d.name, err)
		}
		n, err := s.goroutines(d)
		if err != nil {
			s.violation("goroutines of the %s: %v", d.name, err)
		}
		fmt.Fprintf(s.out, "%s: in the warm-up %v; at most %v; in the end %v, %d goroutines\n", d.name, warm, peak, end, n)
		if end.rss > 2*warm.rss+moreMemory {
			s.violation("the %s holds %v at rest, %v in the warm-up", d.name, end, warm)
		}
		if end.fds > warm.fds+moreDescriptors {
			s.violation("the %s holds %v at rest, %v in the warm-up", d.name, end, warm)
		}
		if n > mostGoroutines {
			s.violation("the %s has %d goroutines at rest", d.name, n)
		}
	}
}

var goroutine = regexp.MustCompile(`(?m)^goroutine \d+ .*\[`)

func (s *scene) goroutines(d *daemon) (int, error) {
	before, err := os.ReadFile(d.Log())
	if err != nil {
		return 0, err
	}
	if err := d.Signal(syscall.SIGQUIT); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := lab.Until(ctx, func() (bool, error) { return !d.Running(), nil }); err != nil {
		return 0, err
	}
	after, err := os.ReadFile(d.Log())
	if err != nil {
		return 0, err
	}
	return len(goroutine.FindAll(after[len(before):], -1)), nil
}

// said counts what the daemons complained of, and looks for what they never may say.
func (s *scene) said(logs string) {
	complaints := make(map[string]int)
	for line := range strings.Lines(logs) {
		for _, word := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(line, word) {
				s.violation("%s", strings.TrimSpace(line))
			}
		}
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
			_, msg, _ := strings.Cut(line, " level=")
			level, msg, _ := strings.Cut(msg, " msg=")
			if quoted, rest, ok := strings.Cut(strings.TrimPrefix(msg, `"`), `"`); ok && strings.HasPrefix(msg, `"`) {
				msg, _ = quoted, rest
			} else {
				msg, _, _ = strings.Cut(msg, " ")
			}
			complaints[level+" "+msg]++
		}
	}
	for _, text := range slices.SortedFunc(maps.Keys(complaints), func(a, b string) int { return complaints[b] - complaints[a] }) {
		fmt.Fprintf(s.out, "  %6d  %s\n", complaints[text], text)
	}
}

// keep leaves the evidence of a run that failed.
func (s *scene) keep() error {
	if s.Millrace == nil {
		return nil
	}
	s.Millrace.Milter.Kill()
	s.Millrace.Agent.Kill()
	if err := os.MkdirAll(s.evidence, 0o755); err != nil {
		return err
	}
	var errs []error
	for name, path := range map[string]string{
		"postfix.log": s.Postfix.Log(), "milter.log": s.milter.Log(), "agent.log": s.agent.Log(), "millrace.toml": s.Millrace.Config(),
	} {
		errs = append(errs, copyFile(filepath.Join(s.evidence, name), path))
	}
	for name, l := range map[string]*ledger.Ledger{"sent.jsonl": &s.sent, "received.jsonl": s.Internet.Ledger()} {
		f, err := os.Create(filepath.Join(s.evidence, name))
		if err == nil {
			err = errors.Join(l.WriteJSON(f), f.Close())
		}
		errs = append(errs, err)
	}
	spool := filepath.Join(s.evidence, "spool")
	errs = append(errs, os.RemoveAll(spool), os.CopyFS(spool, os.DirFS(s.disk.spool())))
	fmt.Fprintf(s.out, "evidence: %s\n", s.evidence)
	return errors.Join(errs...)
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}
