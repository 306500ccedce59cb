package postconf

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// Undo plans to take out what Setup put in. Where nobody has changed a file since, it
// becomes again what it was, octet by octet; what an admin wrote since, comments too,
// stays.
func Undo(ctx context.Context, c *config.Config, o SetupOptions) (*Plan, error) {
	s, err := newStage(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	old, err := s.copies()
	if err != nil {
		return nil, err
	}
	byHand, err := s.undo(ctx, c, old)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(ctx)
	if err != nil {
		return nil, err
	}
	p.Restored, p.ByHand = true, byHand
	return p, nil
}

func (s *stage) undo(ctx context.Context, c *config.Config, old map[string][]byte) (byHand []string, err error) {
	if _, err := s.mend(old["main.cf"]); err != nil {
		return nil, err
	}
	host, err := readAs(ctx, s.dir, s.real)
	if err != nil {
		return nil, err
	}
	text, err := s.text("master.cf")
	if err != nil {
		return nil, err
	}
	m, byHand := host.undoMaster(c, readMaster(text))
	if len(host.naming(c)) == 0 && string(m.bytes()) == string(text) {
		return nil, nil // nothing of Millrace is here, and copies that lie here are of an earlier time
	}
	var before *stage // nil: not known
	if old["main.cf"] != nil {
		if before, err = s.beside(old); err != nil {
			return nil, err
		}
		defer before.close()
	}
	changed, err := s.undoMain(ctx, c, host, before)
	if err != nil {
		return nil, err
	}
	if before != nil && changed {
		if err := s.restore(ctx, "main.cf", old["main.cf"], before); err != nil {
			return nil, err
		}
	}
	if string(m.bytes()) == string(text) {
		return byHand, nil
	}
	if old["master.cf"] != nil && saysSame(m.bytes(), old["master.cf"]) {
		return byHand, s.write("master.cf", old["master.cf"])
	}
	return byHand, s.write("master.cf", m.bytes())
}

// undoMain takes Millrace out of main.cf, and reports whether it was there.
func (s *stage) undoMain(ctx context.Context, c *config.Config, host *Postfix, before *stage) (changed bool, err error) {
	was := func(name string) (value string, set bool, err error) {
		if before == nil {
			return "", false, nil
		}
		return before.raw(ctx, name)
	}
	for _, name := range []string{"smtpd_milters", "non_smtpd_milters"} {
		value, _, err := s.raw(ctx, name)
		if err != nil {
			return false, err
		}
		first, had, err := was(name)
		if err != nil {
			return false, err
		}
		rest, ours := host.without(c, value)
		if name == "non_smtpd_milters" && changed && value != first && refersTo(first, "smtpd_milters") {
			// Set-up wrote out what "$smtpd_milters" stood for.
			if then, _, err := was("smtpd_milters"); err != nil {
				return false, err
			} else if rest == insteadOf(first, "smtpd_milters", then) {
				rest, ours = first, true
			}
		}
		if !ours {
			continue
		}
		changed = true
		if rest == "" && !had {
			err = s.unset(ctx, name)
		} else {
			err = s.set(ctx, name, rest)
		}
		if err != nil {
			return false, err
		}
	}
	v, set, err := s.raw(ctx, "in_flow_delay")
	if err != nil || !set || v != "0" || before == nil {
		return changed, err
	}
	switch first, had, err := was("in_flow_delay"); {
	case err != nil:
		return false, err
	case !had:
		return true, s.unset(ctx, "in_flow_delay")
	case first != v:
		return true, s.set(ctx, "in_flow_delay", first)
	}
	return changed, nil
}

// undoMaster takes Millrace out of master.cf.
func (p *Postfix) undoMaster(c *config.Config, m master) (_ master, byHand []string) {
	m = m.without()
	for i := range p.services {
		v := &p.services[i]
		if v.set["syslog_name"] == snippets.SyslogName && m.has(v.name, v.kind) {
			byHand = append(byHand, fmt.Sprintf("%s: this service is for what Millrace gives back, and stands outside set-up's comments: take it out", v.where()))
			continue
		}
		value, own := v.set["smtpd_milters"]
		if _, had := p.without(c, value); v.command != "smtpd" || !own || !had || !m.has(v.name, v.kind) {
			continue
		}
		line, lead, written, after, _ := m.option(v.name, v.kind, "smtpd_milters")
		if line < 0 {
			byHand = append(byHand, fmt.Sprintf("%s: take Millrace out of its smtpd_milters", v.where()))
			continue
		}
		if rest, ok := p.without(c, written); ok {
			m[line] = lead + rest + after
		}
	}
	return m, byHand
}

// restore puts the old text in the place of one that says the same. What postconf(1)
// makes of a file when it edits it (a value on one line, a repeated parameter once) is
// no difference: the old text is compared as postconf would have left it, too.
func (s *stage) restore(ctx context.Context, name string, old []byte, before *stage) error {
	now, err := s.text(name)
	if err != nil {
		return err
	}
	if saysSame(now, old) {
		return s.write(name, old)
	}
	for _, parameter := range []string{"smtpd_milters", "non_smtpd_milters", "in_flow_delay"} {
		value, set, err := before.raw(ctx, parameter)
		if err == nil && set {
			err = before.set(ctx, parameter, value)
		}
		if err != nil {
			return err
		}
	}
	edited, err := before.text(name)
	if err != nil || !saysSame(now, edited) {
		return err
	}
	return s.write(name, old)
}

// saysSame reports whether two files of Postfix's have the same lines in the same
// order, comments too, however a logical line is broken and spaced. The places of
// comments among the parameters do not count: postconf(1) moves those inside a value.
func saysSame(a, b []byte) bool {
	lines, comments := said(a)
	lines2, comments2 := said(b)
	return slices.Equal(lines, lines2) && slices.Equal(comments, comments2)
}

func said(text []byte) (lines, comments []string) {
	for line := range strings.Lines(string(text)) {
		fields := strings.Join(strings.Fields(line), " ")
		switch {
		case fields == "":
		case fields[0] == '#':
			comments = append(comments, fields)
		case (line[0] == ' ' || line[0] == '\t') && len(lines) > 0:
			lines[len(lines)-1] += " " + fields
		default:
			lines = append(lines, fields)
		}
	}
	for i, line := range lines {
		if name, value, ok := strings.Cut(line, "="); ok && !strings.ContainsAny(strings.TrimSpace(name), " ") {
			lines[i] = strings.TrimSpace(name) + "=" + strings.TrimSpace(value)
		}
	}
	return lines, comments
}
