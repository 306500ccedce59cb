package classify

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/address"
	"github.com/millrace/millrace/agent/config"
)

// printableASCII is what may stand in a log line as it is.
func printableASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

func checkDecision(t *testing.T, m *Message, d Decision) {
	t.Helper()
	if d.Divert != nil && (len(d.Divert) != len(m.Recipients) || d.Stream == "") {
		t.Fatalf("%+v", d)
	}
	if d.Divert == nil && d.Stream != "" || d.Reason == "" {
		t.Fatalf("%+v", d)
	}
	for i, diverted := range d.Divert { // agent/smtp FuzzPlainAddressesAreSaid has the rest of the way
		if r := m.Recipients[i].Address; diverted && (!address.Plain(m.Sender) || !address.Plain(r)) {
			t.Fatalf("diverted from %q to %q", m.Sender, r)
		}
	}
	if !printableASCII(d.Stream) || strings.ContainsAny(d.Stream, " \"\\") || len(d.Stream) > maxStream {
		t.Fatalf("stream %q", d.Stream)
	}
	if !printableASCII(d.Reason) || len(d.Reason) > 200 {
		t.Fatalf("reason %q", d.Reason)
	}
}

// FuzzDecide judges arbitrary headers, by the built-in rules and by a rule that
// diverts everything. Whatever the header says, a veto beside it keeps the mail.
func FuzzDecide(f *testing.F) {
	files, err := filepath.Glob("testdata/corpus/*.eml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		s, err := readSample(string(text))
		if err != nil {
			f.Fatal(err)
		}
		_, header, _ := strings.Cut(string(text), "\n\n")
		f.Add(s.message.Sender, "ann@gmail.com", "", header)
	}
	f.Add("<a@b.example>", "a..b@c.example", "", "X-Millrace: divert")
	f.Add("Ann <a@b.example>", "\"\x1b[2J\"@c.example", "", "X-Millrace: divert")
	f.Add("a", "\"b\"@c", "XVERP=\xff", "Received: \x00\r\nX-Millrace: divert")
	shipped := mustNew(f, base())
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}, Stream: "{header:Subject}{list_id}/{feedback_id}"}}
	all := mustNew(f, cfg)
	f.Fuzz(func(t *testing.T, sender, rcpt, arg, head string) {
		message := func() *Message {
			m := &Message{Sender: sender, Recipients: []Recipient{remote(rcpt), remote("ann@gmail.com")}, AuthUser: "u", Arrived: start}
			if arg != "" {
				m.Args = []string{arg}
			}
			m.Header = fields(strings.Split(head, "\n")...)
			return m
		}
		for _, c := range []*Classifier{shipped, all} {
			m := message()
			checkDecision(t, m, c.Decide(m))
			for i, veto := range []func(*Message){
				func(m *Message) { m.Sender = "" },
				func(m *Message) { m.Looped = true },
				func(m *Message) { m.AuthUser = "" },
				func(m *Message) { m.Args = append(m.Args, "REQUIRETLS") },
				func(m *Message) { m.Recipients[0].Args = []string{"XDSN=1"} },
				func(m *Message) { m.Header = append(m.Header, fields("AUTO-SUBMITTED: Auto-Replied")...) },
				func(m *Message) {
					m.Header = append(m.Header, fields("Content-type:\n multipart/REPORT; boundary=x")...)
				},
				func(m *Message) { m.Header = append(m.Header, fields("X-Spam-Flag:YES")...) },
			} {
				m := message()
				veto(m)
				d := c.Decide(m)
				checkDecision(t, m, d)
				if d.Divert != nil {
					t.Fatalf("diverted in spite of veto %d: %+v", i, d)
				}
			}
		}
	})
}

// FuzzRule writes a rule into a configuration file: what config accepts compiles
// here, and its stream is fit for a log line whatever the message holds.
func FuzzRule(f *testing.F) {
	f.Add("{list_id}", "*@news.example.com", "X-Campaign: *", "X-Spam: /yes/", "spring")
	f.Add("a-{header:X-Campaign}-{feedback_id}", "*", "Precedence: /^(bulk|list)$/", "X: ?", "\x00\r\n")
	f.Add("{", "[", "X: /[/", "X: /(?i)/", "")
	f.Add("{header:}}", "**?", "X: //", "X: */", "é")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, stream, sender, header, veto, value string) {
		file, err := os.CreateTemp(dir, "*.toml")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		for _, s := range []string{stream, sender, header, veto} {
			if strings.ContainsAny(s, "'\r\n") {
				return // not of a literal string
			}
		}
		fmt.Fprintf(file, "hostname = 'mail.example.com'\n[milter]\nveto_headers = ['%s']\n[[milter.rule]]\nname = 'fuzz'\naction = 'divert'\nstream = '%s'\nsender = ['%s']\nheader = ['%s']\n",
			veto, stream, sender, header)
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.Load(file.Name())
		if err != nil {
			return
		}
		c, err := New(cfg.Milter, NewVolume())
		if err != nil {
			t.Fatalf("config accepted what does not compile: %v", err)
		}
		m := newsletter()
		m.Header = append(m.Header, Field{"X-Campaign", value}, Field{"Precedence", value}, Field{"X", value}, Field{"X-Spam", value})
		checkDecision(t, m, c.Decide(m))
		// The template also where the rule does not match.
		if s, _ := c.stream(c.rules[0].stream, m, index(m.Header), 1); s != clean(s) || s == "" {
			t.Fatalf("stream %q", s)
		}
	})
}

// FuzzGlob compares globs with regular expressions that mean the same.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"*@news.example.com", "a@news.example.com"}, {"a*b?c", "aXbXc"}, {"**?*", "x"}, {"", ""}, {"[a]", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, pattern, s string) {
		var re strings.Builder
		for i := range len(pattern) {
			switch c := pattern[i]; {
			case c == '*':
				re.WriteString("(?s:.*)")
			case c == '?':
				re.WriteString("(?s:.)")
			case c < 0x80:
				re.WriteString(regexp.QuoteMeta(string(rune(c))))
			default:
				return // a glob is of octets, a regexp of runes
			}
		}
		for i := range len(s) {
			if s[i] >= 0x80 {
				return
			}
		}
		want := regexp.MustCompile("^(?:" + re.String() + ")$").MatchString(s)
		if got := glob(pattern).match(s); got != want {
			t.Fatalf("glob %q on %q: %v, want %v", pattern, s, got, want)
		}
	})
}

// FuzzSenderKey wants keys of any sender to be printable, bounded and the same
// for all its recipients.
func FuzzSenderKey(f *testing.F) {
	f.Add("dev-bounces", "ann=gmail.com", "lists.example.net")
	f.Add("prvs=1=x", "", "a@b")
	f.Fuzz(func(t *testing.T, local, tag, domain string) {
		key := SenderKey(local + "+" + tag + "@" + domain)
		if !printableASCII(key) || len(key) > maxStream || key != strings.ToLower(key) {
			t.Fatalf("%q", key)
		}
		if strings.ContainsAny(local+tag+domain, "+@") || strings.HasPrefix(strings.ToLower(local), "prvs=") {
			return
		}
		if other := SenderKey(local + "+someone=else.example@" + domain); other != key {
			t.Fatalf("%q and %q", key, other)
		}
	})
}
