package postconf

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/config"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// SetupOptions say what to set up.
type SetupOptions struct {
	// Dir is the configuration directory of the instance; "" is Postfix's default.
	Dir string
	// Command says to filter mail of sendmail(1) too.
	Command bool
}

// Setup plans what makes Postfix ask Millrace and take its mail back. What is set up
// already stays as it is, and what is not understood is left to the admin. The error
// says why nothing can be set up; nothing was changed then.
func Setup(ctx context.Context, c *config.Config, o SetupOptions) (*Plan, error) {
	s, err := newStage(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	defer s.close()
	before, err := readAs(ctx, s.dir, s.real)
	if err != nil {
		return nil, err
	}
	x := &setup{stage: s, c: c, o: o, host: before}
	if err := x.plan(ctx); err != nil {
		return nil, err
	}
	p, err := s.plan(ctx)
	if err != nil {
		return nil, err
	}
	p.Fresh, p.Reasons, p.ByHand = !x.was, x.reasons, x.byHand
	return p, x.verify(p.After)
}

// setup is a plan in the making.
type setup struct {
	*stage
	c       *config.Config
	o       SetupOptions
	host    *Postfix // as it is now
	was     bool     // something of Millrace was there
	reasons []string
	byHand  []string
}

func (x *setup) reason(format string, args ...any) {
	x.reasons = append(x.reasons, fmt.Sprintf(format, args...))
}

func (x *setup) note(format string, args ...any) {
	x.byHand = append(x.byHand, fmt.Sprintf(format, args...))
}

func (x *setup) plan(ctx context.Context) error {
	old, err := x.copies()
	if err != nil {
		return err
	}
	if mended, err := x.mend(old["main.cf"]); err != nil {
		return err
	} else if mended {
		x.reason("main.cf: what an earlier set-up added stands on the line before, which had no end")
		if x.host, err = readAs(ctx, x.dir, x.real); err != nil {
			return err
		}
	}
	if filter := x.host.pipedFilter(); x.o.Command && filter != "" && slices.Contains(x.c.Milter.Scope, "loopback") {
		return fmt.Errorf("--sendmail-command: %s runs a program, which gives mail back by sendmail(1), so mail from outside would be taken for this host's own; remedy: leave the option out", filter)
	}
	address, err := x.host.socket(x.c)
	if err != nil {
		return err
	}
	text, err := x.text("master.cf")
	if err != nil {
		return err
	}
	m := readMaster(text)
	x.was = len(x.host.naming(x.c)) > 0 || string(m.without().bytes()) != string(m.bytes())
	others, err := x.mainCF(ctx, address)
	if err != nil {
		return err
	}
	if m, err = x.masterCF(m, address, others); err != nil {
		return err
	}
	if err := x.write("master.cf", m.bytes()); err != nil {
		return err
	}
	return x.flowDelay(ctx)
}

// mainCF puts Millrace into main.cf's lists, and returns the milters that stood in
// smtpd_milters without it, as they are written.
func (x *setup) mainCF(ctx context.Context, address string) (others string, err error) {
	value, _, err := x.raw(ctx, "smtpd_milters")
	if err != nil {
		return "", err
	}
	command, _, err := x.raw(ctx, "non_smtpd_milters")
	if err != nil {
		return "", err
	}
	others, had := x.host.without(x.c, value)
	if err := x.place(ctx, "smtpd_milters", value, address); err != nil {
		return "", err
	}
	follows := refersTo(command, "smtpd_milters")
	if rest, twice := x.host.without(x.c, command); follows && twice {
		x.reason("main.cf: non_smtpd_milters names Millrace beside $smtpd_milters, which does too")
		if err := x.set(ctx, "non_smtpd_milters", rest); err != nil {
			return "", err
		}
		command = rest
	}
	switch {
	case follows && !x.o.Command && !had:
		// What "$smtpd_milters" stands for is written out, so that mail of sendmail(1)
		// goes the way it went.
		x.reason("main.cf: non_smtpd_milters stays what it is without Millrace; --sendmail-command filters the mail of sendmail(1) too")
		err = x.set(ctx, "non_smtpd_milters", insteadOf(command, "smtpd_milters", others))
	case follows && !x.o.Command:
		x.note("main.cf: non_smtpd_milters is %s, so mail of sendmail(1) passes Millrace too; if that is not wanted: %s",
			command, x.host.postconfE("non_smtpd_milters", insteadOf(command, "smtpd_milters", others)))
	case x.o.Command && !follows:
		err = x.place(ctx, "non_smtpd_milters", command, address)
	}
	if v := x.host.main["smtpd_milter_maps"]; v != "" {
		x.note("main.cf: smtpd_milter_maps is %s: clients that it lists have milters of their own; add %s there for those that send bulk", v, element(address))
	}
	return others, err
}

// place puts Millrace into a list of main.cf.
func (x *setup) place(ctx context.Context, name, value, address string) error {
	now, where := x.host.placed(x.c, value, element(address), ", ")
	if where == notLast {
		x.note("main.cf: %s has milters after Millrace; move Millrace to the end", name)
	}
	if now == value {
		return nil
	}
	if where != absent {
		x.reason("main.cf: %s names Millrace otherwise than set-up does: %s", name, differs(x.host, x.c, value, address))
	}
	return x.set(ctx, name, now)
}

// differs says what is not as set-up writes it.
func differs(p *Postfix, c *config.Config, value, address string) string {
	n := 0
	for _, text := range list(value) {
		if m := parseMilter(text); p.names(c, text) {
			if n++; m.address != address {
				return fmt.Sprintf("at %s, and [milter] listen says %s", m.address, address)
			}
		}
	}
	if n > 1 {
		return "twice"
	}
	return "it does not say protocol=6, which holds whatever milter_protocol is for other milters"
}

// masterCF puts Millrace where services have lists of their own, keeps it from ports
// where mail from outside comes back, and adds the hand-back service.
func (x *setup) masterCF(m master, address, others string) (master, error) {
	was := m
	m, back, err := x.handBack(m)
	if err != nil {
		return nil, err
	}
	dense := "{" + address + "," + strings.ReplaceAll(snippets.MilterOptions, " ", "") + "}"
	loopback := slices.Contains(x.c.Milter.Scope, "loopback")
	for i := range x.host.services {
		v := &x.host.services[i]
		if v.command != "smtpd" || x.host.listens(v, x.c.Handback.Relay) || was.has(v.name, v.kind) && !m.has(v.name, v.kind) {
			continue // or gives way
		}
		value, own := v.set["smtpd_milters"]
		if own && value == "" && (v.set["syslog_name"] == snippets.SyslogName || x.host.listens(v, config.DefaultRelay)) {
			cleanup := ""
			if v.set["cleanup_service_name"] == snippets.Cleanup {
				cleanup = fmt.Sprintf(", and leave its cleanup, %s/unix", snippets.Cleanup)
			}
			x.note("%s: mail comes back at %s now: take this service out%s", v.where(), x.c.Handback.Relay, cleanup)
			continue
		}
		filter, comesBack := x.host.reinjection(x.c, v)
		if comesBack && loopback && !x.host.noMilters(v) {
			if m, err = x.spare(m, v, filter, others); err != nil {
				return nil, err
			}
			continue
		}
		switch {
		case !own || comesBack || refersTo(value, "smtpd_milters"):
			continue
		case value == "":
			x.note("%s has no milters at all (-o smtpd_milters=), and gets none; if users send bulk there, give it %s", v.where(), element(address))
			continue
		}
		line, before, written, after, spaces := m.option(v.name, v.kind, "smtpd_milters")
		if line < 0 {
			if x.host.position(x.c, value) == absent {
				x.note("%s: its smtpd_milters are not written in a form that is known here; add %s at the end", v.where(), dense)
			}
			continue
		}
		us, separator := dense, ","
		if spaces {
			us, separator = element(address), ", "
		}
		now, where := x.host.placed(x.c, written, us, separator)
		if where == notLast {
			x.note("%s: smtpd_milters has milters after Millrace; move Millrace to the end", v.where())
		}
		if now != written && where != absent {
			x.reason("%s: smtpd_milters names Millrace otherwise than set-up does: %s", v.where(), differs(x.host, x.c, written, address))
		}
		m[line] = before + now + after
	}
	if back == "" {
		return m, nil
	}
	return m.with(back), nil
}

// handBack makes room for the hand-back service, and returns what is to be added of it:
// "" where it is there. One that set-up added at another relay gives way.
func (x *setup) handBack(m master) (bare master, text string, err error) {
	relay := x.c.Handback.Relay
	if x.host.takesBack(relay) {
		return m, "", nil
	}
	bare = m.withoutServices()
	text, left, err := x.host.handbackService(relay, bare)
	if err != nil {
		return nil, "", err
	}
	if left != "" {
		x.note("%s", left)
		return m, "", nil
	}
	for i := range x.host.services {
		v := &x.host.services[i]
		if v.command != "smtpd" || !m.has(v.name, v.kind) || bare.has(v.name, v.kind) {
			continue
		}
		why := "[handback] relay says so"
		if wrong := Exposed(v.name, x.host.files); wrong != "" && config.RelaySocket(relay) != "" {
			why = wrong
		}
		x.reason("%s gives way to %s: %s", v.where(), relay, why)
	}
	return bare, text, nil
}

// spare keeps Millrace from a port where a content filter gives mail back.
func (x *setup) spare(m master, v *service, filter, others string) (master, error) {
	value, own := v.set["smtpd_milters"]
	switch {
	case own && x.host.position(x.c, value) == absent && !refersTo(value, "smtpd_milters"):
		return m, nil
	case own:
		return m, fmt.Errorf("%s: mail comes back here from %s, mail from outside among it, and its smtpd_milters name Millrace; remedy: take Millrace out there", v.where(), filter)
	}
	m, ok := m.spared(v.name, v.kind, others)
	if !ok {
		return m, fmt.Errorf("%s: mail comes back here from %s, mail from outside among it, and the service is not written in a form that is known here; remedy: %s",
			v.where(), filter, x.host.postconfP(v, "smtpd_milters", others))
	}
	x.reason("%s: mail comes back here from %s, mail from outside among it: Millrace does not see it", v.where(), filter)
	return m, nil
}

// flowDelay does what a discard needs.
func (x *setup) flowDelay(ctx context.Context) error {
	if x.c.Milter.Verdict != config.VerdictDiscard && !x.o.Command && !x.host.milters(x.c).command {
		return nil // nothing is discarded, see discards
	}
	host, err := readAs(ctx, x.dir, x.real)
	if err != nil {
		return err
	}
	for _, f := range host.discards(x.c, host.milters(x.c)) {
		switch {
		case f.Remedy == host.postconfE("in_flow_delay", "0"):
			if err := x.set(ctx, "in_flow_delay", "0"); err != nil {
				return err
			}
		case f.Bypass == "":
			x.byHand = append(x.byHand, f.String())
		}
	}
	return nil
}

// verify holds the result against what was meant: no parameter but ours is another,
// and mail of sendmail(1) joins only where that was asked for.
func (x *setup) verify(after *Postfix) error {
	for name, value := range after.written {
		if value != x.host.written[name] && !slices.Contains([]string{"smtpd_milters", "non_smtpd_milters", "in_flow_delay"}, name) {
			return fmt.Errorf("main.cf: %s would become %q; nothing was changed; remedy: see that main.cf is as postconf(1) writes it, each parameter on a line that ends", name, value)
		}
	}
	if !x.o.Command && after.milters(x.c).command && !x.host.milters(x.c).command {
		return fmt.Errorf("non_smtpd_milters of cleanup in master.cf follows smtpd_milters, so mail of sendmail(1) would join; nothing was changed; remedy: give it a list of its own, or say --sendmail-command")
	}
	return nil
}

// refersTo reports whether a value has "$name" in one of its forms.
func refersTo(value, name string) bool { return insteadOf(value, name, "") != value }

// insteadOf writes out "$name".
func insteadOf(value, name, text string) string {
	return reference.ReplaceAllStringFunc(value, func(ref string) string {
		if strings.Trim(ref, "$(){}") == name {
			return text
		}
		return ref
	})
}

// naming are the parameters and services that name Millrace.
func (p *Postfix) naming(c *config.Config) (places []string) {
	for _, name := range []string{"smtpd_milters", "non_smtpd_milters"} {
		if p.position(c, p.main[name]) != absent {
			places = append(places, "main.cf: "+name)
		}
		for i := range p.services {
			if s := &p.services[i]; p.position(c, s.set[name]) != absent {
				places = append(places, s.where()+": "+name)
			}
		}
	}
	return places
}

// Names reports whether an instance names Millrace among its milters, this one or, by
// set-up's own words, one of another configuration.
func (p *Postfix) Names(c *config.Config) bool { return len(p.naming(c)) > 0 }

// NamesListen reports whether an instance asks the Millrace of this configuration.
func (p *Postfix) NamesListen(c *config.Config) bool {
	ask := func(value string) bool {
		return slices.ContainsFunc(list(value), func(text string) bool {
			named, _ := p.isOurs(parseMilter(text).address, c.Milter.Listen, false)
			return named
		})
	}
	return slices.ContainsFunc(p.services, func(s service) bool { return ask(p.value(&s, "smtpd_milters")) }) || ask(p.main["non_smtpd_milters"])
}

// socket is the milter's address as Postfix has to write it.
func (p *Postfix) socket(c *config.Config) (string, error) {
	queue := filepath.Clean(p.main["queue_directory"]) + "/"
	chrooted := slices.ContainsFunc(p.services, func(s service) bool { return s.command == "smtpd" && s.chroot })
	for _, l := range c.Milter.Listen {
		network, at, err := config.ParseListen(l)
		if err != nil {
			return "", err
		}
		if network != "unix" {
			host, port, err := net.SplitHostPort(at)
			if err != nil {
				return "", err
			}
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				host = "127.0.0.1"
			}
			return "inet:" + net.JoinHostPort(host, port), nil
		}
		if path, ok := strings.CutPrefix(filepath.Clean(at), queue); ok {
			return "unix:" + path, nil
		}
		if !chrooted {
			return "unix:" + filepath.Clean(at), nil
		}
	}
	return "", fmt.Errorf("smtpd runs chrooted in %s, and [milter] listen (%s) has no socket there; %s",
		queue, strings.Join(c.Milter.Listen, ", "), p.relative(c.Milter.Listen))
}

// position is where Millrace stands in a list of milters.
type position int

const (
	absent position = iota
	last
	notLast
)

func (p *Postfix) position(c *config.Config, value string) position {
	found := absent
	for _, text := range list(value) {
		if p.names(c, text) {
			found = last
		} else if found == last {
			found = notLast
		}
	}
	return found
}

// placed is a list of milters with Millrace, and where it stood: put at the end if it
// was absent; where it is in set-up's own words, in those of now; once. An element of
// an admin's own words stays, but for the protocol that Millrace needs.
func (p *Postfix) placed(c *config.Config, value, us, separator string) (string, position) {
	where := p.position(c, value)
	if where == absent {
		return joined(value, us, separator), absent
	}
	// The last place counts where it stands more than once, as it must be the last.
	n := 0
	for _, text := range tokens(value) {
		if p.names(c, text) {
			n++
		}
	}
	out, rest := "", value
	for _, text := range tokens(value) {
		i := strings.Index(rest, text)
		before, word := rest[:i], text
		rest = rest[i+len(text):]
		if p.names(c, text) {
			if n--; n > 0 {
				rest = strings.TrimLeft(rest, ", \t\r\n")
				out += before
				continue
			}
			word = p.inWords(text, us, separator)
		}
		out += before + word
	}
	return out + rest, where
}

// inWords is an element of ours as set-up writes it, or as the admin does who wrote it,
// and with the protocol.
func (p *Postfix) inWords(text, us, separator string) string {
	inside, braced := inBraces(text)
	if !braced {
		inside = text
	}
	m := parseMilter(inside)
	if m.bySetup() {
		if ours, _ := inBraces(us); sameSettings(m, snippets.MilterOptions) && parseMilter(ours).address == m.address {
			return text
		}
		return us
	}
	if _, said := m.set["protocol"]; said || p.main["milter_protocol"] == "6" {
		return text
	}
	if strings.Contains(separator, " ") {
		return "{ " + inside + ", protocol=6 }"
	}
	return "{" + inside + ",protocol=6}"
}

// bySetup reports whether a milter has exactly the settings that set-up writes, or
// wrote: it is Millrace, wherever that listens by now.
func (m milter) bySetup() bool {
	return sameSettings(m, snippets.MilterOptions) || sameSettings(m, snippets.EarlierMilterOptions)
}

func sameSettings(m milter, options string) bool {
	want := parseMilter("x, " + options).set
	if len(want) != len(m.set) {
		return false
	}
	for name, value := range want {
		if m.set[name] != value {
			return false
		}
	}
	return true
}

// names reports whether an element of a list of milters is Millrace: [milter] listen
// says so, or set-up wrote it.
func (p *Postfix) names(c *config.Config, text string) bool {
	m := parseMilter(text)
	if inside, ok := inBraces(text); ok {
		m = parseMilter(inside)
	}
	named, _ := p.isOurs(m.address, c.Milter.Listen, false)
	return named || m.bySetup()
}

// without is a list of milters without Millrace, and otherwise as it is written.
func (p *Postfix) without(c *config.Config, value string) (rest string, had bool) {
	const separators = ", \t\r\n"
	for _, text := range tokens(value) {
		i := strings.Index(value, text)
		switch {
		case !p.names(c, text):
			rest += value[:i+len(text)]
		case rest == "":
			had = true
			value = strings.TrimLeft(value[i+len(text):], separators)
			continue
		default:
			had = true // with the separators before it
		}
		value = value[i+len(text):]
	}
	return rest, had
}

// joined adds an element to a list.
func joined(value, element, separator string) string {
	if value == "" {
		return element
	}
	return strings.TrimRight(value, ", ") + separator + element
}
