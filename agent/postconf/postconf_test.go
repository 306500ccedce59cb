package postconf

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab"
	snippets "github.com/millrace/millrace/contrib/postfix"
)

// instance writes a configuration directory of Postfix.
func instance(t *testing.T, main, master string) string {
	t.Helper()
	dir := t.TempDir()
	if err := lab.WritePostfixConfig(dir, main, master); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPostconfIsRead(t *testing.T) {
	t.Parallel()
	dir := instance(t, "compatibility_level = 2\nmyhostname = mail.example.com\nrelay_domains = $mydestination, [::1],\n  a=b\n",
		"smtp inet n - y - - smtpd\nbare inet n - - - - smtpd -v\n"+snippets.MasterCF)
	p, err := Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"smtp_helo_name": "mail.example.com", "content_filter": "", "in_flow_delay": "1s",
		"relay_domains": p.main["mydestination"] + ", [::1], a=b",
	} {
		if got, ok := p.main[name]; !ok || got != want {
			t.Errorf("%s is %q, %t; want %q", name, got, ok, want)
		}
	}
	if n := len(p.services); n != 4 {
		t.Fatalf("%d services", n)
	}
	if s := p.service("smtp", "inet"); s.command != "smtpd" || !s.chroot || len(s.set) != 0 {
		t.Errorf("smtp is %+v", s)
	}
	if s := p.service("bare", "inet"); s.chroot {
		t.Error(`"-" is no chroot since Postfix 3.0`)
	}
	s := p.service("millrace", "unix")
	if s == nil || s.chroot || s.private {
		t.Fatalf("the hand-back service is %+v", s)
	}
	if got := p.value(s, "mynetworks"); got != "127.0.0.0/8,[::1]/128" {
		t.Errorf("its mynetworks is %q", got)
	}
	if v, ok := s.set["smtpd_milters"]; v != "" || !ok {
		t.Errorf("its smtpd_milters is %q, %t", v, ok)
	}
}

// TestOldDefaultIsChroot: before Postfix 3.0 there was no compatibility_level.
func TestOldDefaultIsChroot(t *testing.T) {
	t.Parallel()
	p := parse("mail_version = 2.11.3\n", "smtp inet n - - - - smtpd\n", "", nil)
	if !p.service("smtp", "inet").chroot {
		t.Error(`"-" was a chroot`)
	}
}

func TestPostfixWithoutMainCFIsNone(t *testing.T) {
	t.Parallel()
	if _, err := Read(t.Context(), t.TempDir()); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
	dir := instance(t, "myhostname = a.example.com\n", "smtp inet\n")
	if _, err := Read(t.Context(), dir); err == nil || errors.Is(err, ErrNone) {
		t.Errorf("got %v for a master.cf that postconf cannot read", err)
	}
}

func TestListSplitsAsPostfixDoes(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][]string{
		"":                                  nil,
		" , ":                               nil,
		"a":                                 {"a"},
		"a b,c ,\td ":                       {"a", "b", "c", "d"},
		"inet:[::1]:1, { unix:a/b, x=y },c": {"inet:[::1]:1", "unix:a/b, x=y", "c"},
		"{ a, { b } c }d":                   {"{ a, { b } c }d"},
		"{ open, x":                         {"{ open, x"},
		"inline:{a=b, { c = d }} x":         {"inline:{a=b, { c = d }}", "x"},
		"}a":                                {"}a"},
	} {
		if got := list(value); !slices.Equal(got, want) {
			t.Errorf("list(%q) = %q, want %q", value, got, want)
		}
	}
}

func TestParseMilter(t *testing.T) {
	t.Parallel()
	m := parseMilter("unix:millrace/milter.sock, connect_timeout=5s, default_action = accept,protocol=6")
	want := map[string]string{"connect_timeout": "5s", "protocol": "6"}
	if m.address != "unix:millrace/milter.sock" || m.set["connect_timeout"] != want["connect_timeout"] || m.set["protocol"] != want["protocol"] {
		t.Errorf("got %s, %v", m.address, slices.Sorted(maps.Keys(m.set)))
	}
}

func TestTimesOfPostfix(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{"5": 5 * time.Second, "30s": 30 * time.Second, "2m": 2 * time.Minute, "1h": time.Hour, "1w": 168 * time.Hour} {
		if got, err := seconds(value); err != nil || got != want {
			t.Errorf("%q is %v, %v", value, got, err)
		}
	}
	for _, value := range []string{"", "s", "soon"} {
		if got, err := seconds(value); err == nil {
			t.Errorf("%q is %v", value, got)
		}
	}
}

func TestServiceListensAt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, interfaces, endpoint string
		want                       bool
	}{
		{"127.0.0.1:10626", "all", "127.0.0.1:10626", true},
		{"127.0.0.1:10626", "all", "localhost:10626", true},
		{"localhost:10626", "all", "127.0.0.1:10626", true},
		{"127.0.0.1:10626", "all", "127.0.0.1:10627", false},
		{"127.0.0.1:10626", "all", "[::1]:10626", false},
		{"[::1]:10626", "all", "[0:0::1]:10626", true},
		{"192.0.2.1:10626", "all", "127.0.0.1:10626", false},
		{"0.0.0.0:10626", "192.0.2.1", "127.0.0.1:10626", true},
		{"10626", "all", "127.0.0.1:10626", true},
		{"10626", "all", "mail.example.com:10626", true},
		{"10626", "all", "mx.example.net:10626", false},
		{"10626", "loopback-only", "mail.example.com:10626", false},
		{"10626", "loopback-only", "127.0.0.1:10626", true},
		{"10626", "loopback-only", "192.0.2.1:10626", false},
		{"10626", "192.0.2.1, 127.0.0.1", "127.0.0.1:10626", true},
		{"10626", "192.0.2.1, [::1]", "127.0.0.1:10626", false},
		{"smtp", "all", "127.0.0.1:25", true},
	} {
		p := &Postfix{main: map[string]string{"inet_interfaces": c.interfaces, "myhostname": "mail.example.com"}}
		if got := p.listens(&service{name: c.name, kind: "inet"}, c.endpoint); got != c.want {
			t.Errorf("%s with inet_interfaces=%s at %s: %t", c.name, c.interfaces, c.endpoint, got)
		}
	}
	p := &Postfix{main: map[string]string{"inet_interfaces": "all"}}
	if p.listens(&service{name: "10626", kind: "unix"}, "127.0.0.1:10626") {
		t.Error("a unix service listens at a port")
	}
	p = &Postfix{main: map[string]string{"queue_directory": "/var/spool/postfix-bulk/"}}
	for _, c := range []struct {
		s     service
		relay string
		want  bool
	}{
		{service{name: "millrace", kind: "unix"}, "unix:/var/spool/postfix-bulk/public/millrace", true},
		{service{name: "millrace", kind: "unix"}, "unix:/var/spool//postfix-bulk/public/../public/millrace", true},
		{service{name: "millrace", kind: "unix"}, "unix:/var/spool/postfix/public/millrace", false},
		{service{name: "millrace", kind: "unix"}, "unix:/var/spool/postfix-bulk/private/millrace", false},
		{service{name: "millrace", kind: "unix", private: true}, "unix:/var/spool/postfix-bulk/public/millrace", false},
		{service{name: "handback", kind: "unix"}, "unix:/var/spool/postfix-bulk/public/millrace", false},
		{service{name: "millrace", kind: "inet"}, "unix:/var/spool/postfix-bulk/public/millrace", false},
	} {
		if got := p.listens(&c.s, c.relay); got != c.want {
			t.Errorf("%+v at %s: %t", c.s, c.relay, got)
		}
	}
}

func TestMillraceIsKnownByItsSocket(t *testing.T) {
	t.Parallel()
	p := &Postfix{main: map[string]string{"queue_directory": "/var/spool/postfix"}}
	const inside, outside, tcp = "unix:/var/spool/postfix/millrace/milter.sock", "unix:/run/millrace/milter.sock", "inet:8890@127.0.0.1"
	for _, c := range []struct {
		address, listen string
		chroot          bool
		named, found    bool
	}{
		{"unix:millrace/milter.sock", inside, true, true, true},
		{"unix:millrace/milter.sock", inside, false, true, true},
		{"unix:/millrace/milter.sock", inside, true, true, true},
		{"unix:/millrace/milter.sock", inside, false, true, false},
		{"unix:/var/spool/postfix/millrace/milter.sock", inside, true, true, false},
		{"unix:/var/spool/postfix/millrace/milter.sock", inside, false, true, true},
		{"unix:/run/millrace/milter.sock", outside, false, true, true},
		{"unix:/run/millrace/milter.sock", outside, true, true, false},
		{"unix:other.sock", inside, false, false, false},
		{"inet:127.0.0.1:8890", tcp, true, true, true},
		{"inet:localhost:8890", tcp, true, true, true},
		{"inet:127.0.0.1:8891", tcp, true, false, false},
		{"inet:192.0.2.1:8890", tcp, true, false, false},
		{"inet:192.0.2.1:8890", "inet:8890@0.0.0.0", true, true, true},
		{"inet:[::1]:8890", "inet6:8890@[::1]", true, true, true},
		{"inet:127.0.0.1:8890", inside, true, false, false},
	} {
		named, found := p.isOurs(c.address, []string{"inet:1@127.0.0.1", c.listen}, c.chroot)
		if named != c.named || found != c.found {
			t.Errorf("%s for %s, chroot %t: named %t, found %t", c.address, c.listen, c.chroot, named, found)
		}
	}
}
