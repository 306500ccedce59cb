package postconf

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// ours is what an admin writes for Millrace; for messages.
func (p *Postfix) ours(c *config.Config) string {
	address, err := p.socket(c)
	if err != nil {
		address = "unix:millrace/milter.sock" // where relative says to listen
	}
	return element(address)
}

// element is Millrace among milters, as set-up writes it.
func element(address string) string { return "{ " + address + ", " + snippets.MilterOptions + " }" }

// Check compares Postfix with a configuration.
func (p *Postfix) Check(c *config.Config) []Finding {
	m := p.milters(c)
	return slices.Concat(
		m.findings,
		p.handback(c),
		p.domains(c, m.command),
		p.reinjected(c, m),
		p.discards(c, m),
		p.bypassed(c, m),
		p.Inlet(c),
		p.outbound(c),
	)
}

// Bypassed are the findings of Check that say what diverted mail passes by and
// nobody has accepted: none unless the milter diverts, and Postfix names it.
func (p *Postfix) Bypassed(c *config.Config) []Finding {
	if m := p.milters(c); len(m.through) == 0 && !m.command {
		return nil
	}
	without := *c
	without.Inlet.Listen = nil // Inlet's own
	return slices.DeleteFunc(p.Check(&without), func(f Finding) bool { return f.Bypass == "" || f.Severity != Contradiction })
}

// milters is Millrace's place among Postfix's milters.
type milters struct {
	findings []Finding
	through  []*service // smtpd services whose mail Millrace sees
	command  bool       // mail of sendmail(1) too
}

// entrance is a parameter that names milters, as one service sees it.
type entrance struct {
	service   *service
	parameter string // "smtpd_milters" or "non_smtpd_milters"
}

// milters looks for Millrace wherever Postfix names milters.
func (p *Postfix) milters(c *config.Config) milters {
	var m milters
	said := map[string]bool{} // a value of main.cf is looked at once, not for each service
	look := func(e entrance) bool {
		found, findings := p.entrance(c, e)
		for _, f := range findings {
			if text := f.String(); !said[text] {
				said[text] = true
				m.findings = append(m.findings, f)
			}
		}
		return found
	}
	for i := range p.services {
		s := &p.services[i]
		if s.command != "smtpd" || p.noMilters(s) {
			continue
		}
		if look(entrance{s, "smtpd_milters"}) {
			m.through = append(m.through, s)
		}
	}
	if cleanup := p.service("cleanup", "unix"); cleanup != nil {
		m.command = look(entrance{cleanup, "non_smtpd_milters"})
	}
	if len(m.through) == 0 && !m.command {
		with, _ := p.placed(c, p.written["smtpd_milters"], p.ours(c), ", ")
		m.findings = append(m.findings, Finding{
			Severity: inDivert(c),
			Where:    "main.cf",
			Wrong:    fmt.Sprintf("smtpd_milters does not name Millrace (%s): it sees no mail", strings.Join(c.Milter.Listen, ", ")),
			Remedy:   p.postconfE("smtpd_milters", with) + ", or correct [milter] listen",
		})
	}
	if maps := p.main["smtpd_milter_maps"]; maps != "" && len(m.through) > 0 {
		m.findings = append(m.findings, Finding{
			Where:  "main.cf",
			Wrong:  fmt.Sprintf("smtpd_milter_maps is %s: clients found there have the milters named there, and no others", maps),
			Remedy: "name Millrace there too, as the last one, for clients that send bulk",
		})
	}
	return m
}

// inDivert is the severity of what only stands in the way of diverted mail.
func inDivert(c *config.Config) Severity {
	if c.Milter.Mode == config.Divert {
		return Contradiction
	}
	return Warning
}

// noMilters reports whether a service hands its mail past all milters.
func (p *Postfix) noMilters(s *service) bool {
	return p.overrides(s, "no_milters")
}

// entrance reports whether one list of milters has Millrace, and what is wrong
// with its place there.
func (p *Postfix) entrance(c *config.Config, e entrance) (bool, []Finding) {
	value := p.value(e.service, e.parameter)
	var all []milter
	at, found := -1, false
	for _, text := range list(value) {
		m := parseMilter(text)
		if named, there := p.isOurs(m.address, c.Milter.Listen, e.service.chroot); named && at < 0 {
			at, found = len(all), there
		}
		all = append(all, m)
	}
	if at < 0 {
		return false, p.withoutUs(c, e, value)
	}
	var findings []Finding
	where := p.where(e.service, e.parameter)
	note := func(sev Severity, wrong, remedy string) {
		findings = append(findings, Finding{Severity: sev, Where: where, Wrong: wrong, Remedy: remedy})
	}
	us := all[at]
	if !found {
		root := "the whole host's /"
		if e.service.chroot {
			root = p.main["queue_directory"]
		}
		note(Contradiction, fmt.Sprintf("%s names %s, which %s looks for in %s: Millrace is not there", e.parameter, us.address, e.service.command, root),
			p.relative(c.Milter.Listen))
	}
	if last := len(all) - 1; at < last {
		var later []string
		for _, m := range all[at+1:] {
			later = append(later, m.address)
		}
		findings = append(findings, hardStop(c, e.parameter, where,
			fmt.Sprintf("%s has %s after Millrace: it may refuse a message that Millrace has taken, and the client sends it again; what it adds or signs is missing from diverted mail", e.parameter, strings.Join(later, ", ")),
			"put Millrace last"))
	}
	if action := p.option(us, e.service, "default_action"); action != "accept" {
		note(Warning, fmt.Sprintf("%s has no default_action=accept for Millrace (it is %s): Postfix takes no mail while Millrace is down", e.parameter, action),
			"write "+p.ours(c))
	}
	for _, limit := range []struct {
		name        string
		least, most time.Duration
		why         string
	}{
		{"connect_timeout", 0, 10 * time.Second, "each client waits so long while Millrace hangs"},
		{"command_timeout", 5 * time.Second, 0, "a milter given up in the middle of a message is not asked again in that session"},
		{"content_timeout", time.Minute, 0, "a milter given up while the spool is slow makes Postfix send what Millrace has taken too"},
	} {
		value := p.option(us, e.service, limit.name)
		d, err := seconds(value)
		switch {
		case err != nil:
		case limit.most > 0 && d > limit.most:
			note(Warning, fmt.Sprintf("%s gives Millrace a %s of %s: %s", e.parameter, limit.name, value, limit.why), "write "+p.ours(c))
		case d < limit.least:
			note(Warning, fmt.Sprintf("%s gives Millrace a %s of only %s: %s", e.parameter, limit.name, value, limit.why), fmt.Sprintf("give it at least %.0fs", limit.least.Seconds()))
		}
	}
	if v := p.option(us, e.service, "protocol"); v != "6" {
		note(inDivert(c), fmt.Sprintf("%s speaks protocol %s to Millrace, which needs 6: nothing is diverted", e.parameter, v),
			"write "+p.ours(c)+", where protocol=6 is for Millrace alone")
	}
	return true, findings
}

// withoutUs is what is to be said of a list that does not have Millrace. There
// may be good reasons, so only the usual slip is named: a port for the host's
// own users with a list of its own.
func (p *Postfix) withoutUs(c *config.Config, e entrance, value string) []Finding {
	_, own := e.service.set[e.parameter]
	submission := e.service.kind == "inet" &&
		slices.Contains([]string{"submission", "submissions", "smtps", "587", "465"}, port(e.service.name))
	if !own || value == "" || !submission || !slices.Contains(c.Milter.Scope, "authenticated") {
		return nil
	}
	return []Finding{{
		Where:  e.service.where(),
		Wrong:  fmt.Sprintf("%s is %s, without Millrace: mail of the users who send there is not diverted", e.parameter, value),
		Remedy: "add " + p.ours(c) + " as the last one, if it should be",
	}}
}

// milter is one element of smtpd_milters.
type milter struct {
	address string
	set     map[string]string
}

func parseMilter(text string) milter {
	m := milter{set: map[string]string{}}
	for i, f := range list(text) {
		if i == 0 {
			m.address = f
		} else if name, value, ok := strings.Cut(f, "="); ok {
			m.set[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m
}

// option is a setting of one milter, or else of all.
func (p *Postfix) option(m milter, s *service, name string) string {
	if v, ok := m.set[name]; ok {
		return v
	}
	return p.value(s, "milter_"+name)
}

// isOurs reports whether a milter's address is meant for Millrace, and whether a
// process of Postfix finds it there: for a chrooted one the queue directory is
// the root. A relative path starts there for all.
func (p *Postfix) isOurs(address string, listen []string, chroot bool) (named, found bool) {
	kind, rest, _ := strings.Cut(address, ":")
	queue := p.main["queue_directory"]
	for _, l := range listen {
		network, at, err := config.ParseListen(l)
		switch {
		case err != nil:
		case network == "unix" && kind == "unix":
			at = filepath.Clean(at)
			inQueue, inRoot := filepath.Join(queue, rest) == at, filepath.Clean(rest) == at
			named = named || inQueue || inRoot
			if filepath.IsAbs(rest) && !chroot {
				found = found || inRoot
			} else {
				found = found || inQueue
			}
		case network != "unix" && kind == "inet" && sameEndpoint(rest, at):
			named, found = true, true
		}
	}
	return named, found
}

// relative is how to name a socket of ours so that every process finds it.
func (p *Postfix) relative(listen []string) string {
	queue := filepath.Clean(p.main["queue_directory"]) + "/"
	for _, l := range listen {
		if network, at, err := config.ParseListen(l); err == nil && network == "unix" {
			if path, ok := strings.CutPrefix(filepath.Clean(at), queue); ok {
				return "write unix:" + path
			}
		}
	}
	return fmt.Sprintf("set [milter] listen = [\"unix:%smillrace/milter.sock\"] and write unix:millrace/milter.sock", queue)
}

// sameEndpoint compares "host:port" as Postfix has it with where we listen.
func sameEndpoint(theirs, at string) bool {
	host, service, err := net.SplitHostPort(theirs)
	if err != nil {
		return false
	}
	our, ourPort, err := net.SplitHostPort(at)
	if err != nil || !samePort(service, ourPort) {
		return false
	}
	if ip := net.ParseIP(our); ip != nil && ip.IsUnspecified() {
		return true
	}
	return host == our || isLocalhost(host) && isLocalhost(our)
}

func samePort(a, b string) bool {
	n, err := net.LookupPort("tcp", a)
	m, err2 := net.LookupPort("tcp", b)
	return a == b || err == nil && err2 == nil && n == m
}

func isLocalhost(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// seconds reads a time of Postfix's: a number and a unit, seconds without one.
func seconds(value string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	unit := time.Second
	if n := len(value); n > 0 {
		if u, ok := units[value[n-1]]; ok {
			unit, value = u, value[:n-1]
		}
	}
	n, err := strconv.Atoi(value)
	return time.Duration(n) * unit, err
}

// cli is a command of Postfix's for this instance, for a shell.
func (p *Postfix) cli(command string) string {
	if p.dir == "" {
		return command
	}
	return command + " -c " + p.dir
}

// millraceSetup is the command that sets this instance up.
func (p *Postfix) millraceSetup() string {
	if p.dir == "" {
		return "millrace setup"
	}
	return "millrace setup --postfix-config " + p.dir
}

// reachable is the command that lets others than Postfix connect to a service.
func (p *Postfix) reachable(s *service) string {
	return fmt.Sprintf("%s -F '%s/%s/private=n'", p.cli("postconf"), s.name, s.kind)
}

// postconfE is the command that sets a parameter of main.cf, for a shell.
func (p *Postfix) postconfE(name, value string) string {
	text := name + "=" + value
	if strings.ContainsAny(value, " {}$") {
		text = "'" + text + "'"
	}
	return p.cli("postconf") + " -e " + text
}

// postconfP is the command that sets a parameter of one service.
func (p *Postfix) postconfP(s *service, name, value string) string {
	return fmt.Sprintf("%s -P '%s/%s/%s=%s'", p.cli("postconf"), s.name, s.kind, name, value)
}
