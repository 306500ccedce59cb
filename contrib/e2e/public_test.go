//go:build !race

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// publicPairs are configurations of public projects, see agent/postconf.
const publicPairs = "../../agent/postconf/testdata/setup/public/*.txtar"

// TestSetupOnRunningPublicConfigurations starts configurations that strangers wrote, as
// near as they can be started here, and sets each up: bulk is diverted and the rest is
// not, Postfix lives, and all of it is undone octet by octet. Some of them are for each
// run of the tests, all for the build tag "long".
func TestSetupOnRunningPublicConfigurations(t *testing.T) {
	t.Parallel()
	pairs, err := filepath.Glob(publicPairs)
	if err != nil || len(pairs) < 56 {
		t.Fatalf("%d pairs, %v", len(pairs), err)
	}
	for i, path := range pairs {
		if i%everyPair != 0 {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			runPublic(t, path, fmt.Sprintf("127.85.%d.1", i+1))
		})
	}
}

func runPublic(t *testing.T, path, host string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	s := publicHost{host: host}
	s.read(t, path)
	// Postfix wants to find each address of inet_interfaces on an interface.
	addAddress(t, host)
	r := newRoom(t, ctx)
	if err := r.StartPostfix(ctx, lab.PostfixOptions{Own: &lab.PostfixOwn{Main: s.main, Master: s.master, Addr: host + ":" + s.port}}); err != nil {
		t.Fatal(err)
	}
	err := r.NewMillrace(lab.MillraceOptions{Set: map[string]string{
		"milter.accept_bypass": fmt.Sprintf("[%s]", quoted(config.Bypasses())),
		"handback.relay":       "", // set-up chooses
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.endDaemons)
	p, m := r.Postfix, r.Millrace
	r.start(m.Agent, m.Milter)

	before := map[string]string{}
	for _, name := range []string{"main.cf", "master.cf"} {
		before[name] = read(t, filepath.Join(p.Config(), name))
	}
	programs, err := lab.Programs()
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) string {
		t.Helper()
		all := append([]string{"--config", m.Config(), "setup", "--postfix-config", p.Config(), "--yes", "--no-test"}, args...)
		out, err := exec.CommandContext(ctx, filepath.Join(programs, "millrace"), all...).CombinedOutput()
		if err != nil {
			t.Fatalf("setup %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	said := command()
	if toml := read(t, filepath.Join(filepath.Dir(m.Config()), "conf.d", "host.toml")); !strings.Contains(toml, fmt.Sprintf("relay = %q", p.HandbackAddr())) {
		t.Errorf("mail comes back elsewhere:\n%s", toml)
	}
	if err := m.Milter.Reload(); err != nil {
		t.Fatal(err)
	}
	r.logLine(m.Milter, "configuration reloaded")

	if !s.closed {
		r.judges(&s, said)
	}
	if again := command(); !strings.Contains(again, "nothing is to be changed") {
		t.Errorf("a second time:\n%s", again)
	}
	command("--undo")
	for name, text := range before {
		if now := read(t, filepath.Join(p.Config(), name)); now != text {
			t.Errorf("%s is not what it was:\n%s\n---\n%s", name, now, text)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.Config(), "*.before-millrace")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	c, err := lab.Dial(ctx, p.SMTPAddr())
	if err != nil {
		t.Fatalf("Postfix is dead: %v", err)
	}
	c.Close()
}

// judges sends bulk, which is diverted where it may be, and a letter, which is not.
func (r *room) judges(s *publicHost, said string) {
	r.t.Helper()
	// A reload of Postfix takes effect with the next smtpd, a moment later.
	n := 0
	r.until("bulk is judged", func() bool {
		n++
		qid := r.send("news@lab.test", []string{"ann@far.test"}, news(fmt.Sprintf("bulk-%d", n)))
		lines := logbuf.Lines(read(r.t, r.Millrace.Milter.Log()), "qid="+qid+" ", "verdict=")
		if len(lines) == 0 {
			return false // not seen by the milter, or not logged yet
		}
		if diverted := strings.Contains(lines[0], "diverted=1"); diverted != s.direct() {
			r.t.Errorf("bulk is diverted: %t; %s\n%s", diverted, lines[0], said)
		}
		return true
	})
	qid := r.send("ann@lab.test", []string{"bob@far.test"}, "From: ann@lab.test\r\nTo: bob@far.test\r\nSubject: lunch\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <x@lab.test>\r\n\r\nHello\r\n")
	if line := r.logLine(r.Millrace.Milter, "qid="+qid+" "); strings.Contains(line, "diverted=1") {
		r.t.Errorf("a letter was diverted: %s", line)
	}
}

func quoted(list []string) string {
	var all []string
	for _, s := range list {
		all = append(all, fmt.Sprintf("%q", s))
	}
	return strings.Join(all, ", ")
}

// publicHost is a stranger's configuration on an address of its own. What cannot be here is
// left out: databases and other machines. Tables are empty files.
type publicHost struct {
	host    string // its address
	port    string // of the first service that takes mail
	mainCF  string
	masters string
	closed  bool // its Postfix takes no mail of a client like this test
}

func (s *publicHost) read(t *testing.T, path string) {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s.closed = strings.Contains(string(archive.Comment), "takes no mail")
	for _, f := range archive.Files {
		text := string(f.Data)
		if strings.Contains(string(archive.Comment), f.Name+" has no final newline") {
			text = strings.TrimSuffix(text, "\n")
		}
		if strings.Contains(string(archive.Comment), f.Name+" has CRLF") {
			text = strings.ReplaceAll(text, "\n", "\r\n")
		}
		if f.Name == "main.cf" {
			s.mainCF = text
		} else {
			s.masters = text
		}
	}
	for _, service := range regexp.MustCompile(`(?m)^(?:\S*:)?(\w+)\s+inet\s.*\b(?:smtpd|postscreen)$`).FindAllStringSubmatch(s.masters, -1) {
		if s.port == "" && service[1] != "submissions" && service[1] != "smtps" { // those speak TLS from the first octet
			s.port = service[1]
		}
	}
	if s.port == "" {
		t.Fatalf("%s: nothing takes mail", path)
	}
}

// ownPlace are the parameters that say where a Postfix is, and with which neighbours.
var ownPlace = map[string]func(host, old string) string{
	"inet_interfaces":          func(host, _ string) string { return host },
	"inet_protocols":           func(string, string) string { return "ipv4" },
	"milter_default_action":    func(string, string) string { return "accept" }, // theirs do not run here
	"myhostname":               func(string, string) string { return lab.Hostname },
	"mydomain":                 func(string, string) string { return lab.LocalDomain },
	"myorigin":                 func(string, string) string { return lab.LocalDomain },
	"smtp_bind_address":        func(string, string) string { return "127.0.0.1" },
	"smtp_bind_address6":       func(string, string) string { return "" },
	"smtpd_tls_auth_only":      func(string, string) string { return "no" },
	"smtpd_sasl_auth_enable":   func(string, string) string { return "no" },
	"smtp_sasl_auth_enable":    func(string, string) string { return "no" },
	"mynetworks":               func(string, string) string { return "127.0.0.0/8" },
	"compatibility_level":      func(_, old string) string { return compatible(old) },
	"smtpd_tls_security_level": func(string, string) string { return "none" }, // no certificate here
}

// compatible is a level that this Postfix knows.
func compatible(old string) string {
	if old == "" || old > "3.6" {
		return "3.6"
	}
	return old
}

var (
	table   = regexp.MustCompile(`\b(?:proxy:)?(?:hash|btree|lmdb|cdb|dbm|sdbm|mysql|pgsql|sqlite|ldap|socketmap|tcp|memcache|pcre|regexp|cidr|texthash):(\S*/t\d+|inet:[^\s,]+)`)
	file    = regexp.MustCompile(`(^|[\s,])/(?:etc|data)/[^\s,]+`)
	policy  = regexp.MustCompile(`check_policy_service\s+[^\s,]+,?`)
	address = regexp.MustCompile(`127\.0\.0\.1|\[127\.0\.0\.1\]|localhost:`)
)

// here moves a text to this machine.
func (s *publicHost) here(text, dir string) string {
	text = table.ReplaceAllString(text, "texthash:"+filepath.Join(dir, "empty"))
	text = policy.ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "reject_plaintext_session", "permit")
	text = file.ReplaceAllString(text, "${1}"+filepath.Join(dir, "empty"))
	return address.ReplaceAllStringFunc(text, func(a string) string {
		return strings.NewReplacer("127.0.0.1", s.host, "localhost", s.host).Replace(a)
	})
}

// main is the stranger's main.cf with what it needs to run here in place of its own.
func (s *publicHost) main(dir string) string {
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644); err != nil {
		return "" // and Postfix says what is wrong
	}
	found := map[string]bool{}
	var out strings.Builder
	skip := false
	for line := range strings.Lines(s.here(s.mainCF, dir)) {
		name, value, ok := strings.Cut(line, "=")
		name = strings.TrimSpace(name)
		continued := line[0] == ' ' || line[0] == '\t'
		if continued && skip {
			continue
		}
		skip = false
		if change, own := ownPlace[name]; ok && own && !continued {
			skip, found[name] = true, true
			end := line[len(strings.TrimRight(line, "\r\n")):]
			out.WriteString(name + " = " + change(s.host, strings.TrimSpace(value)) + end)
			continue
		}
		out.WriteString(line)
	}
	first := ""
	for _, name := range slices.Sorted(maps.Keys(ownPlace)) {
		if !found[name] {
			first += name + " = " + ownPlace[name](s.host, "") + "\n"
		}
	}
	return first + out.String()
}

// master is the stranger's master.cf without chroots, with the services it needs.
func (s *publicHost) master(dir string) string {
	text := s.here(s.masters, dir)
	text = regexp.MustCompile(`(?m)^(\S+ (?:inet|unix|pass) \S+ \S+) [y-] `).ReplaceAllString(text, "$1 n ")
	usual := ""
	for line := range strings.Lines(lab.PostfixServices()) {
		f := strings.Fields(line)
		if len(f) > 2 && !regexp.MustCompile(`(?m)^`+f[0]+` (unix|fifo)`).MatchString(text) {
			usual += line
		}
	}
	marked := "# and the usual services\n"
	if strings.Contains(text, marked) {
		return strings.Replace(text, marked, usual, 1)
	}
	return usual + text
}

// direct reports whether remote mail goes to its own domain: only that is diverted.
func (s *publicHost) direct() bool {
	return !regexp.MustCompile(`(?m)^relayhost[ \t]*=[ \t]*\S`).MatchString(s.mainCF)
}
