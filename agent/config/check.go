package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// check looks at the merged configuration as a whole, and completes what only
// then can be: domain files and the sets of domains. It speaks of values that a
// file gave; the defaults are right by themselves.
func (l *loader) check() {
	c := l.cfg
	if l.given("hostname") && !isHostname(c.Hostname) {
		l.fail("hostname", remedy(fmt.Sprintf("hostname: %q is not a host name", c.Hostname), `write it like "mail.example.com"`))
	}
	if !filepath.IsAbs(c.Spool.Directory) {
		l.fail("spool.directory", remedy(fmt.Sprintf("directory: %q is not an absolute path", c.Spool.Directory), "begin it with /"))
	}
	l.checkMilter(&c.Milter)
	l.checkInlet(&c.Inlet)
	l.checkDKIM()
	l.checkAgent(&c.Agent)
	l.checkHandback(&c.Handback)
	if f := c.Events.File; f != "" && !filepath.IsAbs(f) {
		l.fail("events.file", remedy(fmt.Sprintf("file: %q is not an absolute path", f), `begin it with /, or write "" for no events`))
	}
	l.checkSuppression(&c.Suppression)
	l.checkFeedback(&c.Feedback)
	l.checkBreaker(&c.Breaker)
	l.checkFleet(&c.Fleet)
	l.checkSimulate(&c.Simulate)
	l.checkWebhooks()
	l.checkPools()
	l.checkWarmups()
	l.checkStreams()
	l.checkQueues()
	l.checkReplies()
}

func (l *loader) checkHandback(h *Handback) {
	if strings.HasPrefix(h.Relay, "unix:") {
		if _, _, err := ParseListen(h.Relay); err != nil {
			l.fail("handback.relay", "relay: "+err.Error())
		}
	} else if !isHostPort(h.Relay) {
		l.fail("handback.relay", remedy(fmt.Sprintf("relay: %q is neither \"unix:/path\" nor \"host:port\"", h.Relay),
			`write it like "unix:/var/spool/postfix/public/millrace" or "127.0.0.1:10626"`))
	}
}

func (l *loader) checkMilter(m *Milter) {
	for i, s := range m.Listen {
		if _, _, err := ParseListen(s); err != nil {
			l.failElement("milter.listen", i, err.Error())
		}
	}
	l.notEmpty("milter.listen", m.Listen, `name a socket, like "unix:/var/spool/postfix/millrace/milter.sock"`)
	for i, p := range m.Peers {
		if p.Bits() == 0 {
			l.failElement("milter.peers", i, remedy(fmt.Sprintf("peers: %s is everybody, who could then send mail in anybody's name", p), "name the hosts or the network of the MTA"))
		}
	}
	if m.OnFailure != "accept" && m.OnFailure != "tempfail" {
		l.fail("milter.on_failure", remedy(fmt.Sprintf("on_failure: %q is unknown", m.OnFailure), `write "accept" or "tempfail"`))
	}
	for i, s := range m.Scope {
		daemon, isDaemon := strings.CutPrefix(s, "daemon:")
		_, err := parsePrefix(s)
		if s != "authenticated" && s != "loopback" && err != nil && (!isDaemon || daemon == "") {
			l.failElement("milter.scope", i, remedy(fmt.Sprintf("scope: %q is unknown", s),
				`write "authenticated", "loopback", "daemon:NAME" or a network like "192.0.2.0/24"`))
		}
	}
	l.notEmpty("milter.scope", m.Scope, `write "authenticated" or "loopback"; to divert nothing say mode = "observe"`)
	for i, s := range m.Remote {
		mailer, hop, found := strings.Cut(s, ":")
		if mailer == "" || strings.ContainsAny(s, " \t") || found && hop == "" {
			l.failElement("milter.remote", i, remedy(fmt.Sprintf("remote: %q is not a mailer", s), `write it like "smtp" or "smtp:[relay.example.com]"`))
		}
	}
	l.notEmpty("milter.remote", m.Remote, `write "smtp", "esmtp"; to divert nothing say mode = "observe"`)
	for i, s := range m.HostDomains {
		domain, err := ListedDomain(s)
		if err != nil {
			l.failElement("milter.host_domains", i, "host_domains: "+err.Error())
			continue
		}
		m.HostDomains[i] = domain
	}
	l.checkBypasses(m.AcceptBypass)
	names := map[string]Rule{}
	for i := range m.Rules {
		l.checkRule(&m.Rules[i], fmt.Sprintf("milter.rule[%d]", i), names)
	}
}

func (l *loader) checkRule(r *Rule, path string, names map[string]Rule) {
	switch first, twice := names[r.Name]; {
	case l.bad[path+".name"]:
	case r.Name == "":
		l.fail(path, remedy("a rule without a name", `give it one: name = "newsletters"`))
	case r.Name == "builtin":
		l.fail(path+".name", remedy(`name: "builtin" stands for the built-in rules in the log`, "choose another name"))
	case twice:
		l.fail(path+".name", remedy(fmt.Sprintf("name: there is a rule %q already at %s:%d", r.Name, first.File, first.Line), "choose another name"))
	default:
		names[r.Name] = *r
	}
	if r.Action == "" && !l.bad[path+".action"] {
		l.fail(path, remedy(fmt.Sprintf("rule %q does not say what to do", r.Name), `add action = "divert" or action = "leave"`))
	}
	l.checkStream(r.Stream, path+".stream")
	l.checkPoolName(r.Pool, path+".pool")
	if r.Pool != "" && r.Action == ActionLeave {
		l.fail(path+".pool", remedy(fmt.Sprintf("pool: mail of rule %q stays with the host, and leaves from where that sends", r.Name), `remove pool, or write action = "divert"`))
	}
	l.globs(path+".sender", r.Sender, addressGlob)
	l.globs(path+".auth_user", r.AuthUser, plainGlob)
	l.globs(path+".recipient_domain", r.RecipientDomain, domainGlob)
	for i, name := range r.HeaderExists {
		if !isFieldName(name) {
			l.failElement(path+".header_exists", i, remedy(fmt.Sprintf("header_exists: %q is not a header field's name", name), `write it like "X-Campaign"`))
		}
	}
	for i, name := range r.Daemon {
		if name == "" || strings.ContainsAny(name, " \t") {
			l.failElement(path+".daemon", i, remedy(fmt.Sprintf("daemon: %q is not a daemon name", name), `write it like "ORIGINATING"`))
		}
	}
	some := false
	for _, c := range []struct {
		key string
		n   int
	}{
		{"sender", len(r.Sender)}, {"header", len(r.Header)}, {"header_exists", len(r.HeaderExists)},
		{"client", len(r.Client)}, {"auth_user", len(r.AuthUser)}, {"daemon", len(r.Daemon)},
		{"recipient_domain", len(r.RecipientDomain)},
		{"min_recipients", r.MinRecipients}, {"min_size", int(min(r.MinSize, 1))},
	} {
		key := path + "." + c.key
		if l.given(key) && c.n == 0 {
			l.fail(key, remedy(c.key+": an empty condition means nothing", "give it a value, or leave it out"))
		}
		_, given := l.at[key]
		some = some || given
	}
	if !some {
		l.fail(path, remedy(fmt.Sprintf("rule %q has no condition and would match all mail", r.Name),
			"add one of sender, header, header_exists, client, auth_user, daemon, min_recipients, recipient_domain, min_size"))
	}
}

// checkStream looks at the placeholders of a stream's template.
func (l *loader) checkStream(template, path string) {
	rest := template
	for rest != "" && !l.bad[path] {
		i := strings.IndexAny(rest, "{}")
		if i < 0 {
			return
		}
		end := strings.IndexByte(rest[i:], '}')
		if rest[i] == '}' || end < 0 {
			l.fail(path, remedy(fmt.Sprintf("stream: %q has a brace without its partner", template), "write placeholders like {list_id}"))
			return
		}
		name := rest[i+1 : i+end]
		header, isHeader := strings.CutPrefix(name, "header:")
		if name != "list_id" && name != "feedback_id" && name != "sender_domain" && (!isHeader || !isFieldName(header)) {
			l.fail(path, remedy(fmt.Sprintf("stream: {%s} is unknown", name), "write {list_id}, {feedback_id}, {sender_domain} or {header:NAME}"))
			return
		}
		rest = rest[i+end+1:]
	}
}

func (l *loader) checkAgent(a *Agent) {
	if network, _, err := ParseListen(a.Control); err != nil || network != "unix" {
		l.fail("agent.control", remedy(fmt.Sprintf("control: %q is not a socket in the file system", a.Control), `write it like "unix:/run/millrace/control.sock"`))
	}
	for i, s := range a.Resolvers {
		if !isAddrPort(s) {
			l.failElement("agent.resolvers", i, remedy(fmt.Sprintf("resolvers: %q is not \"address:port\"", s), `write it like "127.0.0.1:53"`))
		}
	}
	for i, s := range a.Protocols {
		if s != "ipv4" && s != "ipv6" {
			l.failElement("agent.protocols", i, remedy(fmt.Sprintf("protocols: %q is unknown", s), `write "ipv4" or "ipv6"`))
		} else if slices.Contains(a.Protocols[:i], s) {
			l.failElement("agent.protocols", i, remedy(fmt.Sprintf("protocols: %q stands there twice", s), "name each protocol once"))
		}
	}
	l.notEmpty("agent.protocols", a.Protocols, `write "ipv4", "ipv6" or both`)
	for i, addr := range a.SourceAddresses {
		protocol := "ipv6"
		if addr.Is4() {
			protocol = "ipv4"
		}
		if slices.Contains(a.SourceAddresses[:i], addr) {
			l.failElement("agent.source_addresses", i, remedy(fmt.Sprintf("source_addresses: %s stands there twice", addr), "name each address once"))
		} else if !slices.Contains(a.Protocols, protocol) {
			l.failElement("agent.source_addresses", i, remedy(fmt.Sprintf("source_addresses: %s is not of the protocols that are tried", addr),
				fmt.Sprintf("add %q to protocols, or remove the address", protocol)))
		}
	}
	if n := len(a.SourceHostnames); n > 0 && n != len(a.SourceAddresses) {
		l.fail("agent.source_hostnames", remedy(fmt.Sprintf("source_hostnames: %d names for %d source_addresses", n, len(a.SourceAddresses)),
			"give one name for each address, in the same order"))
	}
	for i, s := range a.SourceHostnames {
		if !isHostname(s) {
			l.failElement("agent.source_hostnames", i, remedy(fmt.Sprintf("source_hostnames: %q is not a host name", s), `write it like "out1.example.com"`))
		}
	}
	if !filepath.IsAbs(a.StateDirectory) {
		l.fail("agent.state_directory", remedy(fmt.Sprintf("state_directory: %q is not an absolute path", a.StateDirectory), "begin it with /"))
	}
	relay, err := netip.ParseAddrPort(l.cfg.Handback.Relay)
	if here := RelaySocket(l.cfg.Handback.Relay) != "" || err == nil && relay.Addr().IsLoopback(); a.StopWithHost && !here {
		l.fail("agent.stop_with_host", remedy(fmt.Sprintf("stop_with_host: handback.relay is %q, where it does not show whether the host's MTA is stopped", l.cfg.Handback.Relay),
			`give relay a socket or a loopback address, such as "127.0.0.1:10626", or remove stop_with_host`))
	}
	l.checkTLSFiles(a)
	for i, s := range a.HTTP.Listen {
		if strings.HasPrefix(s, "unix:") {
			if _, _, err := ParseListen(s); err != nil {
				l.failElement("agent.http.listen", i, "listen: "+err.Error())
			}
		} else if !isHostPort(s) {
			l.failElement("agent.http.listen", i, remedy(fmt.Sprintf("listen: %q is not \"address:port\"", s), `write it like "127.0.0.1:8891" or "unix:/path", or "" to turn it off`))
		}
	}
	for i, s := range a.HTTP.Hostnames {
		if !isHostname(s) {
			l.failElement("agent.http.hostnames", i, remedy(fmt.Sprintf("hostnames: %q is not a host name", s), `write it like "status.example.com", without a port`))
		}
	}
}

func (l *loader) checkQueues() {
	for _, key := range notGeneral() {
		if path := "general." + key; l.given(path) {
			l.fail(path, remedy(key+" is not for [general], which takes every domain that no queue lists", "move it to a [[queue]]"))
		}
	}
	l.checkSchedule(&l.cfg.General, "general")
	l.checkRelay(&l.cfg.General, "general")
	l.checkSources(&l.cfg.General, "general")
	l.cfg.domains = domainSet{}
	host := map[string]bool{}
	for _, domain := range l.cfg.Milter.HostDomains {
		host[domain] = true
	}
	listed := map[string]Notice{}
	names := map[string]*Queue{}
	for i := range l.cfg.Queues {
		q, path := &l.cfg.Queues[i], fmt.Sprintf("queue[%d]", i)
		l.checkName(q, path, names)
		l.checkSchedule(q, path)
		l.checkRelay(q, path)
		l.checkSources(q, path)
		l.globs(path+".mx", q.MX, hostGlob)
		if bad := l.bad[path+".domains"] || l.bad[path+".domain_files"] || l.bad[path+".mx"]; !bad &&
			len(q.Domains)+len(q.DomainFiles)+len(q.MX) == 0 {
			l.fail(path, remedy(fmt.Sprintf("queue %q has no domain", q.Name), `add domains = ["example.com"], domain_files or mx`))
		}
		l.listDomains(q, path, host, listed)
	}
	l.cfg.General.withoutRelay()
	for i := range l.cfg.Queues {
		l.cfg.Queues[i].withoutRelay()
	}
}

// notGeneral lists the keys of a queue that the general queue has no use for.
func notGeneral() []string { return []string{"name", "domains", "domain_files", "mx", "spread"} }

// checkSources looks at what a queue says of where its mail leaves from.
func (l *loader) checkSources(q *Queue, path string) {
	l.checkPoolName(q.Pool, path+".pool")
	if q.MaxSessionsTotal == 0 && len(l.cfg.Pools) > 0 {
		q.MaxSessionsTotal = 2 * q.MaxSessions
	}
}

func (l *loader) checkName(q *Queue, path string, names map[string]*Queue) {
	first, twice := names[q.Name]
	switch {
	case l.bad[path+".name"]:
	case q.Name == "":
		l.fail(path, remedy("a queue without a name", `give it one: name = "google"`))
	case q.Name == generalName:
		l.fail(path+".name", remedy(`name: "general" is the general queue`, "set its values under [general], or choose another name"))
	case strings.Trim(strings.ToLower(q.Name), "abcdefghijklmnopqrstuvwxyz0123456789._-") != "":
		l.fail(path+".name", remedy(fmt.Sprintf("name: %q cannot name a queue", q.Name), "use letters, digits, dots, hyphens and underscores"))
	case twice:
		l.fail(path+".name", remedy(fmt.Sprintf("name: there is a queue %q already at %s:%d", q.Name, first.File, first.Line), "choose another name, or join the two"))
	default:
		names[q.Name] = q
	}
}

// checkSchedule looks at what a queue itself gave, not at what it inherited.
func (l *loader) checkSchedule(q *Queue, path string) {
	if l.given(path+".retry") && len(q.Retry) == 0 {
		l.fail(path+".retry", remedy("retry: an empty list", `say how long to wait after a deferral, like "15m"`))
	}
	after, expire := path+".handback_after", path+".expire"
	if q.HandbackAfter == 0 || time.Duration(q.HandbackAfter) < q.Expire || l.bad[after] || l.bad[expire] {
		return
	}
	if l.given(after) || l.given(expire) {
		l.fail(after, remedy("handback_after: the mail has expired before, see expire", `write a shorter time, or "" for never`))
	}
}

// listDomains fills in the domains of q's files and enters all its domains into
// the set that Match asks. host are the host MTA's own domains, listed says where
// each domain was listed first.
func (l *loader) listDomains(q *Queue, path string, host map[string]bool, listed map[string]Notice) {
	var all []string
	add := func(s string, at Notice) {
		domain, err := ListedDomain(s)
		if err != nil {
			at.Text = "domains: " + err.Error()
			l.errs = append(l.errs, at)
			return
		}
		if other, ok := l.cfg.domains[domainKey(domain)]; ok {
			if other != q {
				first := listed[domain]
				at.Text = remedy(fmt.Sprintf("%s is listed in queue %q already, at %s:%d", domain, other.Name, first.File, first.Line), "list it in one queue only")
				l.errs = append(l.errs, at)
			}
			return
		}
		if host[domain] {
			at.Text = remedy(fmt.Sprintf("%s is one of milter.host_domains, which are never diverted", domain), "list it in one of the two only")
			l.errs = append(l.errs, at)
			return
		}
		l.cfg.domains[domainKey(domain)] = q
		listed[domain] = at
		all = append(all, domain)
	}
	for i, s := range q.Domains {
		add(s, l.place(fmt.Sprintf("%s.domains[%d]", path, i)))
	}
	for i, file := range q.DomainFiles {
		if file != "" && !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(q.File), file)
			q.DomainFiles[i] = file
		}
		text, err := os.ReadFile(file)
		if err != nil {
			l.failElement(path+".domain_files", i, remedy(fmt.Sprintf("domain_files: %q cannot be read: %s", file, cause(err)), "create the file, or correct its name"))
			continue
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			n++
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				add(line, Notice{File: file, Line: n})
			}
		}
	}
	q.Domains = all
}

// failElement is fail for one element of a list.
func (l *loader) failElement(path string, i int, text string) {
	l.fail(fmt.Sprintf("%s[%d]", path, i), text)
}

func (l *loader) notEmpty(path string, list []string, todo string) {
	if l.given(path) && len(list) == 0 {
		l.fail(path, remedy(path[strings.LastIndexByte(path, '.')+1:]+": an empty list", todo))
	}
}

// globs checks every glob of a list with ok, which returns what is wrong.
func (l *loader) globs(path string, globs []string, wrong func(glob string) string) {
	if l.bad[path] {
		return
	}
	for i, glob := range globs {
		if text := wrong(glob); text != "" {
			l.failElement(path, i, path[strings.LastIndexByte(path, '.')+1:]+": "+text)
		}
	}
}

func plainGlob(glob string) string {
	switch {
	case glob == "" || strings.ContainsAny(glob, " \t\r\n"):
		return remedy(fmt.Sprintf("%q is not a pattern", glob), "write it without blanks; * is any run of characters, ? any one")
	case len(glob) > 2 && glob[0] == '/' && glob[len(glob)-1] == '/':
		return remedy(fmt.Sprintf("%q is a regular expression, which only header takes", glob), "write a pattern; * is any run of characters, ? any one")
	}
	return ""
}

func addressGlob(glob string) string {
	if text := plainGlob(glob); text != "" {
		return text
	}
	if !strings.ContainsAny(glob, "@*") {
		return remedy(fmt.Sprintf("%q matches no address", glob), fmt.Sprintf("write \"*@%s\"", glob))
	}
	return ""
}

func domainGlob(glob string) string {
	if text := plainGlob(glob); text != "" {
		return text
	}
	for _, c := range strings.ToLower(glob) {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-_*?", c) {
			return remedy(fmt.Sprintf("%q matches no domain: it has the character %q", glob, c),
				`write it like "*.example.com"; * is any run of characters, ? any one, names in A-labels ("xn--")`)
		}
	}
	return ""
}

// hostGlob also refuses a pattern that would claim every domain.
func hostGlob(glob string) string {
	if text := domainGlob(glob); text != "" {
		return text
	}
	if _, err := netip.ParseAddr(glob); err == nil {
		return remedy(fmt.Sprintf("%q is an address", glob), "mail exchangers are named; write a pattern of their names")
	}
	if strings.Trim(glob, "*?.") == "" {
		return remedy(fmt.Sprintf("%q matches every host", glob), "name a domain in it; the general queue takes the rest")
	}
	return ""
}
