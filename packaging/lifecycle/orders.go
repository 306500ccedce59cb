package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
)

// What an admin has ordered with an earlier version is in force after the upgrade:
// pauses of each kind with the mail behind them, holds, limits, priorities,
// suppressions, and a configuration written by hand.

// stopped is mail that a pause keeps.
type stopped struct {
	pause []string // what it is on for, in the words of millrace pause
	which []string // the same in the words of millrace queue, where others are needed
	last  string   // how long, or ""
	to    string   // the recipients' domain
	list  string   // List-Id, where it is not that of all other mail
	user  string   // SASL user
}

// reason is that of the pause, by which it is known again: a later version may have
// other words for a site.
func (s *stopped) reason() string { return "order " + strings.Join(s.pause, " ") }

// queued is the mail of s that is queued.
func (s *stopped) queued(ctx context.Context) ([]entry, error) {
	if s.which != nil {
		return queued(ctx, s.which)
	}
	return queued(ctx, s.pause)
}

const (
	stoppedList = "stopped.shop.test"
	stoppedUser = "hacked@shop.test"
	suppressed  = "nobody@quick.test"
	each        = 3 // messages that each pause keeps before the upgrade
)

// atSites are domains whose mail two pauses keep, of the domain and of the site: the
// agent knows a site once it has mail for it.
var atSites = []string{"provider.test", "hosts.test"}

// pauses are those of this host.
func (l *life) pauses(ctx context.Context) ([]stopped, error) {
	list := []stopped{
		{pause: []string{"--domain", "domain.test"}, to: "domain.test"},
		{pause: []string{"--domain", "timed.test"}, last: "1h", to: "timed.test"},
		{pause: []string{stoppedList}, which: []string{"--stream", stoppedList}, to: "quick.test", list: stoppedList},
		{pause: []string{"--user", stoppedUser}, to: "quick.test", user: stoppedUser},
	}
	for _, domain := range atSites {
		p := stopped{pause: []string{"--domain", domain}, to: domain}
		if err := run(ctx, "millrace", append([]string{"pause"}, p.pause...)...); err != nil {
			return nil, err
		}
		if err := l.post(ctx, &p, 1); err != nil {
			return nil, err
		}
		name := ""
		err := until(ctx, "the agent has a site for "+domain, func() (bool, error) {
			list, err := p.queued(ctx)
			if err == nil && len(list) == 1 {
				name = list[0].Recipients[0].Site
			}
			return name != "", err
		})
		if err != nil {
			return nil, err
		}
		list = append(list, stopped{pause: []string{"--site", name}, which: p.pause, to: domain}, p)
	}
	return list, nil
}

// orders is what was ordered, and what the host had of it before the upgrade.
type orders struct {
	pauses   []stopped
	counts   []int // of messages behind each pause
	standing standing
	held     []string // ids
	list     []string // lines of the suppression list
	own      []byte   // ownFile
}

// standing is what millrace brakes --json lists, whatever the version calls it.
type standing struct {
	Brakes, Limits []map[string]any
	Priorities     map[string]any
}

// order gives the orders, and fills the queue with mail that they keep.
func (l *life) order(ctx context.Context) (*orders, error) {
	o := &orders{}
	var err error
	if o.pauses, err = l.pauses(ctx); err != nil {
		return nil, err
	}
	for i := range o.pauses {
		p := &o.pauses[i]
		args := append([]string{"pause", "--reason", p.reason()}, p.pause...)
		if p.last != "" {
			args = append(args, "--for", p.last)
		}
		if err := run(ctx, "millrace", args...); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{
		{"set", "mine", "--sessions", "5", "--rate", "200/s", "--for", "2h"},
		{"priority", "news.shop.test", "4"},
		{"suppress", "add", suppressed, "another@quick.test"},
		{"suppress", "add", "--stream", "news.shop.test", "third@quick.test"},
	} {
		if err := run(ctx, "millrace", args...); err != nil {
			return nil, err
		}
	}
	for i := range o.pauses {
		if err := l.post(ctx, &o.pauses[i], each); err != nil {
			return nil, err
		}
	}
	if err := l.post(ctx, &stopped{to: "gone.test"}, each); err != nil {
		return nil, err
	}
	o.counts, err = l.kept(ctx, o, func(i int) int {
		if slices.Contains(atSites, o.pauses[i].to) { // for each of its two pauses, and to find the site
			return 2*each + 1
		}
		return each
	})
	if err != nil {
		return nil, err
	}
	if err := run(ctx, "millrace", "hold", "--domain", "gone.test"); err != nil {
		return nil, err
	}
	return o, o.remember(ctx)
}

// remember notes what there is before the upgrade.
func (o *orders) remember(ctx context.Context) error {
	var err error
	if o.standing, err = ask(ctx); err != nil {
		return err
	}
	if len(o.standing.Brakes) != len(o.pauses) || len(o.standing.Limits) != 1 || o.standing.Priorities["news.shop.test"] != 4.0 {
		return fmt.Errorf("ordered were %d pauses, a limit and a priority, and there are %v", len(o.pauses), o.standing)
	}
	if o.held, err = heldIDs(ctx); err != nil || len(o.held) == 0 {
		return errors.Join(err, fmt.Errorf("%d messages are on hold", len(o.held)))
	}
	if o.list, err = suppressions(ctx); err != nil {
		return err
	}
	o.own, err = os.ReadFile(ownFile)
	return err
}

// stand compares what there is after the upgrade, and whether it works.
func (o *orders) stand(ctx context.Context, l *life) error {
	own, err := os.ReadFile(ownFile)
	if err != nil || !bytes.Equal(own, o.own) {
		return errors.Join(err, fmt.Errorf("%s has changed", ownFile))
	}
	now, err := ask(ctx)
	if err != nil {
		return err
	}
	for _, b := range o.standing.Brakes {
		b = maps.Clone(b)
		delete(b, "filter") // whether it keeps the same mail is looked at below
		if !slices.ContainsFunc(now.Brakes, func(x map[string]any) bool { return within(b, x) }) {
			return fmt.Errorf("the pause %v is lost; there are %v", b, now.Brakes)
		}
	}
	for _, b := range o.standing.Limits {
		if !slices.ContainsFunc(now.Limits, func(x map[string]any) bool { return within(b, x) }) {
			return fmt.Errorf("the limit %v is lost; there are %v", b, now.Limits)
		}
	}
	if !within(o.standing.Priorities, now.Priorities) {
		return fmt.Errorf("the priorities %v have become %v", o.standing.Priorities, now.Priorities)
	}
	held, err := heldIDs(ctx)
	if err != nil || !slices.Equal(held, o.held) {
		return errors.Join(err, fmt.Errorf("on hold were %v, and are %v", o.held, held))
	}
	list, err := suppressions(ctx)
	if err != nil {
		return err
	}
	for _, line := range o.list {
		// A later version may have columns more.
		if !slices.ContainsFunc(list, func(x string) bool { return x == line || strings.HasPrefix(x, line+",") }) {
			return fmt.Errorf("the suppression %q is lost; there are %q", line, list)
		}
	}
	// What comes now is kept too, and nothing of the earlier mail has gone.
	for i := range o.pauses {
		if err := l.post(ctx, &o.pauses[i], 1); err != nil {
			return err
		}
	}
	_, err = l.kept(ctx, o, func(i int) int {
		if slices.Contains(atSites, o.pauses[i].to) {
			return o.counts[i] + 2
		}
		return o.counts[i] + 1
	})
	if err != nil {
		return err
	}
	return l.inject(ctx, []*inject.Message{letter(l.number(), suppressed, "news.shop.test")}, &ledger.Ledger{}) // nobody gets it
}

// lift has mail handed back through the port of the earlier version, and ends all orders.
func (o *orders) lift(ctx context.Context, l *life) error {
	if err := run(ctx, "millrace", "handback", "--domain", "domain.test", "--yes", "--wait"); err != nil {
		return err
	}
	for i := range o.pauses {
		p := &o.pauses[i]
		// It was paused until now: nothing has gone meanwhile.
		list, err := p.queued(ctx)
		want := o.counts[i] + 1
		switch {
		case p.to == "domain.test":
			want = 0 // handed back
		case slices.Contains(atSites, p.to):
			want++
		}
		if err != nil || len(list) != want {
			return errors.Join(err, fmt.Errorf("%v: %d messages are queued, %d should be", p.pause, len(list), want))
		}
		if err := resume(ctx, p.reason()); err != nil {
			return err
		}
	}
	for _, args := range [][]string{{"set", "mine", "--reset"}, {"release", "--all"}} {
		if err := run(ctx, "millrace", args...); err != nil {
			return err
		}
	}
	return until(ctx, "what was paused has gone", func() (bool, error) {
		for _, p := range append(o.pauses, stopped{pause: []string{"--domain", "short.test"}}) { // that by itself
			if list, err := p.queued(ctx); err != nil || len(list) > 0 {
				return false, err
			}
		}
		return true, nil
	})
}

// resume takes off the pause of a reason.
func resume(ctx context.Context, reason string) error {
	now, err := ask(ctx)
	if err != nil {
		return err
	}
	for _, b := range now.Brakes {
		if b["reason"] != reason {
			continue
		}
		args := []string{"resume"}
		filter, _ := b["filter"].(map[string]any)
		for key, value := range filter {
			if key != "stream" {
				args = append(args, "--"+key)
			}
			args = append(args, fmt.Sprint(value))
		}
		return run(ctx, "millrace", args...)
	}
	return fmt.Errorf("no pause %q is on", reason)
}

// kept waits until so many messages are queued behind each pause.
func (l *life) kept(ctx context.Context, o *orders, want func(i int) int) ([]int, error) {
	counts := make([]int, len(o.pauses))
	err := until(ctx, "all paused mail is queued", func() (bool, error) {
		for i := range o.pauses {
			list, err := o.pauses[i].queued(ctx)
			if err != nil {
				return false, err
			}
			counts[i] = len(list)
		}
		for i := range counts {
			if counts[i] != want(i) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		err = fmt.Errorf("%w: behind %v are %v messages", err, o.pauses, counts)
	}
	return counts, err
}

// post has Postfix take mail that a pause keeps.
func (l *life) post(ctx context.Context, s *stopped, n int) error {
	list := s.list
	if list == "" {
		list = "news.shop.test"
	}
	var all []*inject.Message
	for range n {
		i := l.number()
		all = append(all, letter(i, fmt.Sprintf("user%d@%s", i, s.to), list))
	}
	if s.user == "" {
		return l.inject(ctx, all, l.sent)
	}
	for _, m := range all {
		if err := l.submit(s.user, m); err != nil {
			return fmt.Errorf("mail of %s: %w", s.user, err)
		}
	}
	return nil
}

func (l *life) inject(ctx context.Context, all []*inject.Message, books *ledger.Ledger) error {
	in := &inject.Injector{Addr: "127.0.0.1:25", Ledger: books}
	res, err := in.Run(ctx, len(all), func(i int) *inject.Message { return all[i] })
	if err == nil && res.Messages != len(all) {
		err = fmt.Errorf("only %d of %d messages were taken by Postfix: %w", res.Messages, len(all), res.Err)
	}
	return err
}

// submit has Postfix take a message of a SASL user; who that is Postfix is told by
// XCLIENT.
func (l *life) submit(user string, m *inject.Message) error {
	c, err := textproto.Dial("tcp", "127.0.0.1:25")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	for _, step := range []struct {
		line string
		code int
	}{
		{"EHLO client.shop.test", 250}, {"XCLIENT LOGIN=" + user, 220}, {"EHLO client.shop.test", 250}, {"MAIL FROM:<" + m.Sender + ">", 250},
		{"RCPT TO:<" + m.Recipients[0] + ">", 250}, {"DATA", 354}, {string(m.Content) + ".", 250}, {"QUIT", 221},
	} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return err
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return err
		}
	}
	var d ledger.Digest
	d.Write(m.Content)
	id, hash := d.Sum()
	l.sent.Add(&ledger.Message{ID: id, Sender: []byte(m.Sender), Recipients: [][]byte{[]byte(m.Recipients[0])}, Hash: hash, Time: time.Now(), Size: d.Size()})
	return nil
}

// entry is a line of millrace queue --json.
type entry struct {
	ID         string `json:"queue_id"`
	Recipients []struct {
		Site string `json:"site"`
	} `json:"recipients"`
}

func queued(ctx context.Context, which []string) (list []entry, err error) {
	out, err := exec.CommandContext(ctx, "millrace", append([]string{"queue", "--json"}, which...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("millrace queue: %w", err)
	}
	for line := range bytes.Lines(out) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

func heldIDs(ctx context.Context) (ids []string, err error) {
	list, err := queued(ctx, []string{"--domain", "gone.test", "--state", "held"})
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	return ids, err
}

func ask(ctx context.Context) (s standing, err error) {
	out, err := exec.CommandContext(ctx, "millrace", "brakes", "--json").Output()
	if err != nil {
		return s, fmt.Errorf("millrace brakes: %w", err)
	}
	return s, json.Unmarshal(out, &s)
}

func suppressions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "millrace", "suppress", "export").Output()
	if err != nil {
		return nil, fmt.Errorf("millrace suppress export: %w", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// within reports whether all that stands in a stands in b; a later version may say more.
func within(a, b map[string]any) bool {
	for key, value := range a {
		x, y := value, b[key]
		if m, ok := x.(map[string]any); ok {
			n, ok := y.(map[string]any)
			if !ok || !within(m, n) {
				return false
			}
		} else if fmt.Sprint(x) != fmt.Sprint(y) {
			return false
		}
	}
	return true
}

// renewed reports whether both daemons are up, and are those of the package that is
// installed now.
func renewed(ctx context.Context, before map[string]int) error {
	after, err := daemons(ctx)
	if err != nil {
		return err
	}
	for unit, pid := range after {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || pid == before[unit] || strings.HasSuffix(exe, "(deleted)") {
			return errors.Join(err, fmt.Errorf("%s runs %s as before the upgrade", unit, exe))
		}
	}
	return nil
}

// daemons are the process ids of the daemons, both of which must be up.
func daemons(ctx context.Context) (map[string]int, error) {
	pids := map[string]int{"millrace-milter": 0, "millrace-agent": 0}
	for _, unit := range slices.Sorted(maps.Keys(pids)) {
		if err := run(ctx, "systemctl", "is-active", unit); err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, "systemctl", "show", "--property=MainPID", "--value", unit).Output()
		if err == nil {
			pids[unit], err = strconv.Atoi(strings.TrimSpace(string(out)))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", unit, err)
		}
	}
	return pids, nil
}

// until waits; it looks twice a second.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	limit, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		ok, err := holds()
		if err != nil || ok {
			return err
		}
		select {
		case <-limit.Done():
			return fmt.Errorf("never: %s", what)
		case <-time.After(500 * time.Millisecond):
		}
	}
}
