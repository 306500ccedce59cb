package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

func TestAnEmptyFileHasEveryDefault(t *testing.T) {
	t.Parallel()
	got, notices := load(t, "")
	want := &Config{
		Hostname: "mail.example.com",
		Spool:    Spool{Directory: "/var/spool/millrace", MinFree: 1 << 30, MaxRecipients: 10_000_000},
		Milter: Milter{
			Listen: []string{"unix:/var/spool/postfix/millrace/milter.sock"},
			Mode:   "observe", Verdict: "auto", OnFailure: "accept", AgentGrace: 10 * time.Minute,
			MaxConnections: 1000, MaxMessageSize: 100 << 20, MaxBodies: 100,
			Scope: []string{"authenticated", "loopback"}, Remote: []string{"smtp", "esmtp"}, BuiltinRules: true,
			VetoHeaders:    []HeaderMatch{{"X-Spam-Flag", "YES*"}, {"X-Spam", "YES*"}, {"X-Spam-Status", "YES*"}},
			BulkRecipients: 500, BulkWindow: 10 * time.Minute,
		},
		Inlet: Inlet{
			PassTo: "inet:25@127.0.0.1", MaxConnections: 100, MaxRecipients: 1000, MaxMessageSize: 10240000, Timeout: 5 * time.Minute,
		},
		Agent: Agent{
			Control: "unix:/run/millrace/control.sock", Port: 25, Protocols: []string{"ipv4", "ipv6"},
			MaxSessions: 2000, StateDirectory: "/var/lib/millrace", DANE: "auto", TLSMinVersion: "1.2",
			HTTP: HTTP{Listen: Listeners{"127.0.0.1:8891"}},
		},
		Handback: Handback{Relay: "127.0.0.1:10626", MaxMessageRate: 50, MaxHostQueue: 5000},
		Events:   Events{MaxSize: 100 << 20, Keep: 10},
		Outcomes: Outcomes{MaxSize: 2 << 30},
		Suppression: Suppression{
			Mode: "advise", After: 3, Within: 30 * 24 * time.Hour, Expire: 180 * 24 * time.Hour, Scope: "stream", Notify: true,
		},
		Breaker: Breaker{Notify: "postmaster"},
		Log:     Log{Format: LogLogfmt, Level: LevelInfo, Deliveries: DeliveriesAll, Recipients: true, Repeats: 5},
		General: Queue{
			Name: "general", Route: Route{Kind: "mx"}, MaxSessions: 20, MaxMessagesPerConnection: 100,
			MaxRecipientsPerMessage: 50, DelayWarningTime: Age(4 * time.Hour), Expire: 120 * time.Hour, TLS: "opportunistic", RelayAuthTLS: "verify",
			Retry: []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour},
		},
		domains: domainSet{},
	}
	if len(got.Replies) == 0 {
		t.Error("no rules about replies are shipped")
	}
	got.Replies = nil // the shipped ones
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if len(notices) > 0 {
		t.Errorf("notices: %v", notices)
	}
}

func TestStreamsHaveASuppressionModeOfTheirOwn(t *testing.T) {
	t.Parallel()
	got, _ := load(t, "[suppression]\nscope = \"global\"\nnotify = false\n[[suppression.stream]]\nname = \"news\"\nmode = \"drop\"\n")
	s := got.Suppression
	if s.Mode != SuppressAdvise || s.Scope != SuppressGlobal || s.Notify || !slices.Equal(s.Streams, []SuppressionStream{{"news", SuppressDrop}}) {
		t.Errorf("%+v", s)
	}
}

func TestDefaultsPassTheirOwnChecks(t *testing.T) {
	t.Parallel()
	l := loader{cfg: defaults(), at: map[string]Notice{}, bad: map[string]bool{}}
	l.check()
	if len(l.errs) > 0 {
		t.Error(l.errs)
	}
}

// TestFilesMerge has a queue in each file, and general values in the last one:
// every queue starts from the values of [general], wherever that stands.
func TestFilesMerge(t *testing.T) {
	t.Parallel()
	dir := unpack(t, txtar.Parse([]byte(`
-- millrace.toml --
hostname = "mail.example.com"
[milter]
mode = "divert"
[[milter.rule]]
name = "first"
action = "leave"
client = ["192.0.2.1", "2001:db8::/32"]
[[queue]]
name = "a"
domains = ["a.example"]
domain_files = ["lists/a.txt"]
-- lists/a.txt --
# the customers
two.example # the second
BÜCHER.example
a.example
-- conf.d/20.toml --
[[queue]]
name = "c"
mx = ["*.c.example"]
tls = "verify"
retry = ["1m"]
route = "relay:[2001:db8::1]:2525"
[milter]
verdict = "discard"
accept_bypass = ["content_filter", "smtpd_milters"]
[[milter.rule]]
name = "third"
action = "divert"
header = ["X-Campaign: *", "Precedence: /^(bulk|list)$/"]
stream = "{header:X-Campaign}-x"
-- conf.d/10.toml --
milter.rule = [{ name = "second", action = "divert", min_recipients = 5, min_size = "10k" }]
queue = [{ name = "b", domains = ["b.example"], max_sessions = 3, max_message_rate = "600/m" }]
-- conf.d/99-general.toml --
[general]
max_sessions = 7
retry = ["5m", "1h"]
route = "handback"
`)))
	c, notices, err := Load(filepath.Join(dir, "millrace.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(notices) > 0 {
		t.Errorf("notices: %v", notices)
	}
	if c.Milter.Mode != Divert || c.Milter.Verdict != VerdictDiscard || c.General.MaxSessions != 7 {
		t.Errorf("the sections of the files did not merge: %+v", c)
	}
	if want := []string{"content_filter", "smtpd_milters"}; !slices.Equal(c.Milter.AcceptBypass, want) {
		t.Errorf("accept_bypass = %q", c.Milter.AcceptBypass)
	}
	var rules, queues []string
	for _, r := range c.Milter.Rules {
		rules = append(rules, r.Name)
	}
	for _, q := range c.Queues {
		queues = append(queues, q.Name)
	}
	if strings.Join(rules, " ") != "first second third" || strings.Join(queues, " ") != "a b c" {
		t.Fatalf("order of rules %v and queues %v", rules, queues)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32")}; !slices.Equal(c.Milter.Rules[0].Client, want) {
		t.Errorf("client = %v", c.Milter.Rules[0].Client)
	}
	if r := c.Milter.Rules[1]; r.MinRecipients != 5 || r.MinSize != 10_000 || r.File != filepath.Join(dir, "conf.d/10.toml") || r.Line != 1 {
		t.Errorf("second rule: %+v", r)
	}
	if want := []HeaderMatch{{"X-Campaign", "*"}, {"Precedence", "/^(bulk|list)$/"}}; !slices.Equal(c.Milter.Rules[2].Header, want) {
		t.Errorf("header = %v", c.Milter.Rules[2].Header)
	}
	a, b, last := &c.Queues[0], &c.Queues[1], &c.Queues[2]
	if got := strings.Join(a.Domains, " "); got != "a.example two.example xn--bcher-kva.example" {
		t.Errorf("domains of a: %s", got)
	}
	if c.Match("bücher.example") != a || a.MaxSessions != 7 || a.Route.Kind != RouteHandback || a.Line != 8 {
		t.Errorf("queue a: %+v", a)
	}
	if b.MaxSessions != 3 || b.MaxMessageRate != 10 || len(b.Retry) != 2 {
		t.Errorf("queue b: %+v", b)
	}
	if last.TLS != TLSVerify || len(last.Retry) != 1 || last.Route != (Route{Kind: RouteRelay, Relay: "[2001:db8::1]:2525"}) {
		t.Errorf("queue c: %+v", last)
	}
	if len(c.General.Retry) != 2 || c.General.TLS != TLSOpportunistic {
		t.Errorf("a queue's values leaked into [general]: %+v", c.General)
	}
}

func TestVolumeAndVetoesCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	c, _ := load(t, "[milter]\nbulk_recipients = 0\nbulk_window = \"1h\"\nveto_headers = []\n")
	if m := c.Milter; m.BulkRecipients != 0 || m.BulkWindow != time.Hour || len(m.VetoHeaders) != 0 {
		t.Errorf("%+v", m)
	}
	c, _ = load(t, "[milter]\nveto_headers = [\"X-Mark: /(?i)spam/\"]\n")
	if got := c.Milter.VetoHeaders; !slices.Equal(got, []HeaderMatch{{"X-Mark", "/(?i)spam/"}}) {
		t.Errorf("veto_headers = %v: a list of the admin's replaces the default", got)
	}
}

func TestStatusPageThatOthersReachIsNoticed(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"0.0.0.0:9000", "[::]:9000", "192.0.2.1:9000", "mail.example.com:9000"} {
		_, notices := load(t, "[agent.http]\nlisten = \""+listen+"\"\n")
		if len(notices) != 1 || notices[0].Line != 3 || !strings.Contains(notices[0].Text, "open to others") {
			t.Errorf("%s: notices: %v", listen, notices)
		}
	}
	for _, listen := range []string{"", "127.0.0.1:9000", "127.0.0.7:9000", "[::1]:9000", "localhost:9000"} {
		if _, notices := load(t, "[agent.http]\nlisten = \""+listen+"\"\n"); len(notices) > 0 {
			t.Errorf("%s: notices: %v", listen, notices)
		}
	}
}

func TestHostnameIsTheHostsOwnByDefault(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, notices, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(own, ".")
	if !strings.EqualFold(c.Hostname, own) && !strings.HasPrefix(strings.ToLower(c.Hostname), strings.ToLower(first)+".") {
		t.Errorf("hostname %q is not that of the host, %q", c.Hostname, own)
	}
	if dotless := !strings.Contains(c.Hostname, "."); dotless != (len(notices) == 1) {
		t.Errorf("hostname %q, notices %v", c.Hostname, notices)
	}
}

// A queue takes the general queue's credentials unless it has its own.
func TestRelayCredentialsAreRead(t *testing.T) {
	t.Parallel()
	dir := unpack(t, txtar.Parse([]byte(`
-- general --
user:pass:word
-- own --
other:secret
-- millrace.toml --
hostname = "mail.example.com"
[agent]
dane = false
[general]
route = "relay:mail.example.com:465"
relay_auth_file = "DIR/general"
[[queue]]
name = "a"
domains = ["a.example"]
relay_wrappermode = true
[[queue]]
name = "b"
domains = ["b.example"]
relay_auth_file = "DIR/own"
`)))
	file := filepath.Join(dir, "millrace.toml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.General.RelayAuth; got == nil || *got != (Auth{"user", "pass:word"}) {
		t.Errorf("general: %v", got)
	}
	a, b := c.Queue("a"), c.Queue("b")
	if a.RelayAuth != c.General.RelayAuth || !a.RelayWrappermode || c.General.RelayWrappermode {
		t.Errorf("a: %+v", a)
	}
	if b.RelayAuth == nil || b.RelayAuth.User != "other" || strings.Contains(b.RelayAuth.String(), "secret") {
		t.Errorf("b: %v", b.RelayAuth)
	}
	if c.Agent.DANE != DANEFalse {
		t.Errorf("dane = %q", c.Agent.DANE)
	}
	if err := os.Chmod(filepath.Join(dir, "own"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(file); err == nil || !strings.Contains(err.Error(), "millrace.toml:14: relay_auth_file: ") {
		t.Errorf("a password for all to read: %v", err)
	}
}

// What [general] has for the relays of the queues that inherit it is for no receiver:
// a queue without a relay has no password to send and no wrapped TLS.
func TestRelayKeysAreForRelaysAlone(t *testing.T) {
	t.Parallel()
	auth := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(auth, []byte("user:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := load(t, "[general]\nrelay_wrappermode = true\nrelay_auth_file = \""+auth+"\"\n"+
		"[[queue]]\nname = \"relayed\"\ndomains = [\"a.example\"]\nroute = \"relay:mail.example.com:465\"\n[[queue]]\nname = \"direct\"\ndomains = [\"b.example\"]\n")
	for _, q := range []*Queue{&c.General, c.Queue("direct")} {
		if q.RelayAuth != nil || q.RelayWrappermode || q.RelayAuthFile != "" {
			t.Errorf("%s, to mail exchangers: %v, wrapped %v", q.Name, q.RelayAuth, q.RelayWrappermode)
		}
	}
	if q := c.Queue("relayed"); q.RelayAuth == nil || !q.RelayWrappermode {
		t.Errorf("%+v", q)
	}
}

// A queue whose relay gets a password says with what TLS, or is told about it.
func TestTLSOfRelayPasswords(t *testing.T) {
	t.Parallel()
	auth := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(auth, []byte("user:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, told := range map[string]bool{
		`route = "relay:mail.example.com:587"`:                                     true,
		`route = "relay:mail.example.com:587"` + "\n" + `tls = "required"`:         true,
		`route = "relay:mail.example.com:587"` + "\n" + `tls = "verify"`:           false,
		`route = "relay:mail.example.com:587"` + "\nrelay_auth_tls = \"required\"": false,
		`route = "relay:127.0.0.1:587"`:                                            false,
		`route = "mx"`:                                                             false,
	} {
		_, notices := load(t, "[general]\n"+text+"\nrelay_auth_file = \""+auth+"\"\n[[queue]]\nname = \"a\"\ndomains = [\"a.example\"]\nroute = \"handback\"\n")
		if (len(notices) == 1) != told || told && (notices[0].Line < 3 || !strings.Contains(notices[0].Text, `relay_auth_tls = "required"`)) {
			t.Errorf("%s: %v", text, notices)
		}
	}
}

// Secrets that others could read were taken by earlier versions: they are refused, and
// no error.
func TestSecretsThatOthersCanReadAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := selfsigned.New("mail.example.com")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, octets := range map[string][]byte{cert: p.Cert, key: p.Key} {
		if err := os.WriteFile(file, octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for mode, refused := range map[os.FileMode]bool{0o600: false, 0o400: false, 0o640: false, 0o644: true, 0o604: true} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		c, notices := load(t, "[agent]\ntls_cert_file = \""+cert+"\"\ntls_key_file = \""+key+"\"\n[spool]\ndirectory = \""+dir+"\"\n")
		if len(notices) > 0 || (len(c.Refused) == 1) != refused {
			t.Errorf("%04o: refused %v, noticed %v", mode, c.Refused, notices)
		}
		for _, n := range c.Refused {
			if n.Line != 4 || !strings.Contains(n.Text, "everybody can read") || !strings.Contains(n.Text, "; remedy: ") {
				t.Errorf("%04o: %v", mode, n)
			}
		}
	}
	const agent, group = 990, 991
	for _, tt := range []struct {
		mode     os.FileMode
		uid, gid uint32
		want     string
	}{
		{0o600, 0, 0, ""}, {0o640, 0, group, ""}, {0o640, 0, 0, ""}, {0o600, agent, 4321, ""}, {0o440, agent, group, ""},
		{0o640, 0, 4321, "group 4321"}, {0o600, 4321, group, "user 4321"}, {0o644, 0, 0, "everybody"}, {0o604, agent, group, "everybody"},
		{0o060, agent, 4321, "group 4321"},
	} {
		if got := readers(tt.mode, tt.uid, tt.gid, agent, group); got != tt.want {
			t.Errorf("%04o of %d:%d: %q, want %q", tt.mode, tt.uid, tt.gid, got, tt.want)
		}
	}
}

// Credentials that a group of others can read are left alone, and what the queue
// inherits of them too.
func TestCredentialsThatOthersCanReadAreNotUsed(t *testing.T) {
	t.Parallel()
	auth := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(auth, []byte("user:secret\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	// The agent is who owns the spool: here root, and the file another's.
	if os.Geteuid() == 0 {
		if err := os.Chown(auth, -1, 4321); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := load(t, "[spool]\ndirectory = \"/\"\n[general]\nrelay_auth_file = \""+auth+"\"\n[[queue]]\nname = \"a\"\ndomains = [\"a.example\"]\nroute = \"relay:mail.example.com:587\"\n")
	if q := c.Queue("a"); q.RelayAuth != nil || !strings.Contains(q.RelayAuthRefused, "can read") || c.General.RelayAuthRefused != "" {
		t.Errorf("%v, %q, general %q", q.RelayAuth, q.RelayAuthRefused, c.General.RelayAuthRefused)
	}
	if len(c.Refused) != 1 || c.Refused[0].Line != 5 || !strings.Contains(c.Refused[0].Text, "the mail waits; remedy: chown root:GROUP") {
		t.Errorf("%v", c.Refused)
	}
}

func TestAdminsReplyRulesComeBeforeTheShippedOnes(t *testing.T) {
	t.Parallel()
	c, _ := load(t, `
[[reply]]
name = "mine"
mx = ["*.partner.example"]
stage = ["connect", "mail"]
code = ["4??"]
text = 'come back in \d+ minutes'
class = "ratelimited"
action = "suspend"
for = "20m"
after = 2
within = "1h"
[[reply]]
name = "google-rate"     # in place of the shipped one
mx = ["*.google.com"]
enhanced = ["4.7.28"]
`)
	if c.Replies[0].Name != "mine" || c.Replies[0].For != 20*time.Minute || c.Replies[0].After != 2 || c.Replies[0].Within != time.Hour {
		t.Errorf("the first rule is %+v", c.Replies[0])
	}
	n := 0
	for _, r := range c.Replies {
		if r.Name == "google-rate" {
			n++
			if r.Action != "" || r.File == shippedName {
				t.Errorf("the shipped rule stays: %+v", r)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d rules google-rate", n)
	}
}

func TestReplyRulesOfAFileTakeThePlaceOfTheShippedOnes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "replies.toml")
	if err := os.WriteFile(file, []byte("[[reply]]\nname = \"only\"\ncode = [\"421\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := load(t, "[agent]\nreplies = \""+file+"\"\n")
	if len(c.Replies) != 1 || c.Replies[0].Name != "only" {
		t.Errorf("%d rules", len(c.Replies))
	}
}

// An open milter was taken by earlier versions: it is refused, and no error.
func TestMilterOpenToOtherHostsIsRefusedWithoutPeers(t *testing.T) {
	t.Parallel()
	for listen, open := range map[string]bool{
		"unix:/run/s": false, "inet:8890@127.0.0.1": false, "inet6:8890@[::1]": false, "inet:8890@localhost": false,
		"inet:8890@0.0.0.0": true, "inet6:8890@[::]": true, "inet:8890@192.0.2.1": true, "inet:8890@mail.example.com": true,
	} {
		c, notices := load(t, "[milter]\nlisten = [\"unix:/run/first\",\n  \""+listen+"\"]\n")
		if got := len(c.Refused); got > 1 || open != (got == 1) || len(notices) > 0 {
			t.Errorf("%s: refused %v, noticed %v", listen, c.Refused, notices)
		} else if open {
			if n := c.Refused[0]; n.Line != 4 || !strings.Contains(n.Text, "anybody") || !strings.Contains(n.Text, "; remedy: ") {
				t.Errorf("%s: %v", listen, n)
			}
		}
		c, _ = load(t, "[milter]\npeers = [\"192.0.2.7\"]\nlisten = [\""+listen+"\"]\n")
		if len(c.Refused) > 0 || len(c.Milter.Peers) != 1 || c.Milter.Peers[0].String() != "192.0.2.7/32" {
			t.Errorf("%s with peers: refused %v", listen, c.Refused)
		}
	}
}
