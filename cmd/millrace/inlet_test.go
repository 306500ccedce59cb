package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/cmd/internal/program"
	snippets "github.com/millrace/millrace/contrib/inlet"
)

// tree is a root with files.
func tree(files map[string]string) fs.FS {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

// inletAt is an inlet at addresses, before a Postfix.
func inletAt(listen ...string) *config.Inlet {
	return &config.Inlet{Listen: listen, PassTo: "inet:25@127.0.0.1"}
}

// What names the inlet in the files that setup tells of is found, and nothing else.
func TestClientsOfTheInletAreFoundInFiles(t *testing.T) {
	t.Parallel()
	root := tree(map[string]string{
		"etc/msmtprc":                          "account default\nhost 127.0.0.1\nport 8825\n",
		"etc/mailman3/mailman.cfg":             "[mta]\nsmtp_host: 127.0.0.1\n# smtp_port: 8825\nsmtp_port: 25\nlmtp_port: 18825\nx: 88250\n",
		"etc/phplist/config.php":               "<?php\n// define('PHPMAILERPORT', 8825);\ndefine('PHPMAILERPORT', 8825);\n",
		"etc/exim4/conf.d/router/190_millrace": snippets.Part(snippets.Exim, "router"),
		"etc/smtpd.conf":                       snippets.OpenSMTPD,
		"etc/opensmtpd/smtpd.conf":             "listen on 127.0.0.1 port 10625\n",
	})
	line := func(text, of string) int {
		before, _, ok := strings.Cut(text, of)
		if !ok {
			t.Fatalf("no %s", of)
		}
		return strings.Count(before, "\n") + 1
	}
	got := findInletClients(root, inletAt("inet:8825@127.0.0.1"))
	want := fmt.Sprintf("/etc/msmtprc:3, /etc/phplist/config.php:3, /etc/exim4/conf.d/router/190_millrace:%d, /etc/smtpd.conf:%d name it",
		line(snippets.Part(snippets.Exim, "router"), "::8825"), line(snippets.OpenSMTPD, `"smtp://127.0.0.1:8825"`))
	if got.String() != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := findInletClients(root, inletAt("inet6:8826@[::1]")).String(); got != "" {
		t.Errorf("another port: %s", got)
	}
	socket := tree(map[string]string{"etc/msmtprc": "host localhost\nsocket /run/millrace-inlet/lists\n"})
	if got := findInletClients(socket, inletAt("unix:/run/millrace-inlet/lists")).String(); got != "/etc/msmtprc:2 names it" {
		t.Errorf("a socket: %s", got)
	}
	if got := findInletClients(socket, inletAt("unix:/run/millrace-inlet/l.sts")).String(); got != "" {
		t.Errorf("another socket: %s", got)
	}
}

// Connections of this moment are the kernel's word.
func TestClientsOfTheInletAreFoundByTheirConnections(t *testing.T) {
	t.Parallel()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for network, address := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "inlet")} {
		ln, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		in, want := inletAt("unix:"+address), "connected now: 1 at unix:"+address
		if network != "unix" {
			_, port, err := net.SplitHostPort(ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			in, want = inletAt("inet:"+port+"@127.0.0.1"), "connected now: "+me.Username
		}
		if got := findInletClients(os.DirFS("/"), in).String(); got != "" {
			t.Errorf("%s: before: %s", network, got)
		}
		c, err := net.Dial(network, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := findInletClients(os.DirFS("/"), in).String(); got != want {
			t.Errorf("%s: %q, want %q", network, got, want)
		}
	}
	// The form of other users' lines, and connections that have ended.
	const tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" +
		"   0: 0100007F:9C40 0100007F:2279 01 00000000:00000000 00:00000000 00000000  4711        0 1 1\n" +
		"   1: 0100007F:2279 0100007F:9C40 01 00000000:00000000 00:00000000 00000000   990        0 2 1\n" +
		"   2: 0100007F:9C41 0100007F:2279 06 00000000:00000000 00:00000000 00000000  4712        0 3 1\n" +
		"   3: 0100007F:9C42 070200C0:2279 01 00000000:00000000 00:00000000 00000000  4713        0 4 1\n"
	if got := findInletClients(tree(map[string]string{"proc/net/tcp": tcp}), inletAt("inet:8825@127.0.0.1")).String(); got != "connected now: 4711" {
		t.Errorf("got %q", got)
	}
}

// Clients of the inlet stand in the way of a removal like a main.cf that names Millrace.
func TestInletKeepsMillraceFromBeingRemoved(t *testing.T) {
	t.Parallel()
	named := tree(map[string]string{"etc/msmtprc": "port 8825\n"})
	on, off, bare := inletAt("inet:8825@127.0.0.1"), inletAt(), tree(nil)
	for _, x := range []struct {
		what string
		root fs.FS
		in   *config.Inlet
		want string    // of inletLeft
		warn [2]string // without and with a drain
	}{
		{"nothing", bare, off, "", [2]string{}},
		{"listens", bare, on, "the inlet still takes mail at inet:8825@127.0.0.1 (no client of it is known at the moment); remedy: have its clients send to 127.0.0.1 port 25, " +
			"take listen out of [inlet] in millrace.toml, and restart millrace-milter",
			[2]string{"", "mail of the inlet's clients goes to 127.0.0.1 port 25 while the spool is drained; remedy: have them send there before Millrace is removed"}},
		{"listens, and is named", named, on, "(/etc/msmtprc:1 names it); remedy",
			[2]string{"", "while the spool is drained (/etc/msmtprc:1 names it); remedy"}},
		{"gone, and still named", named, off, "/etc/msmtprc:1 still names port 8825, the inlet's; remedy: have such software send to 127.0.0.1 port 25",
			[2]string{"/etc/msmtprc:1 names port 8825, where nobody listens: ", "where nobody listens: "}},
	} {
		got := ""
		if err := inletLeft(x.root, x.in, "millrace.toml"); err != nil {
			got = err.Error()
		}
		if (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%s: %q, want %q", x.what, got, x.want)
		}
		for i, draining := range []bool{false, true} {
			if got := inletWarning(x.root, x.in, draining); (got == "") != (x.warn[i] == "") || !strings.Contains(got, x.warn[i]) {
				t.Errorf("%s, draining %v: %q, want %q", x.what, draining, got, x.warn[i])
			}
		}
	}
	if (&config.Inlet{PassTo: "unix:/run/mta"}).Host() != "the socket /run/mta" {
		t.Error("a socket has no port")
	}
}

// The verbs say it: check while it drains, drain itself, and retreat.
func TestVerbsKnowOfTheInlet(t *testing.T) {
	t.Parallel()
	file := serve(t, stopped{})
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text = fmt.Appendf(text, "\n[spool]\ndirectory = %q\n[inlet]\nlisten = [\"inet:18825@127.0.0.1\"]\n", t.TempDir())
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"retreat", "--check"}, 1, "the inlet still takes mail at inet:18825@127.0.0.1"},
		{[]string{"check", "--no-dns"}, 0, ""},
		{[]string{"drain"}, 0, "mail of the inlet goes to 127.0.0.1 port 25"},
		{[]string{"check", "--no-dns"}, 0, "warning: mail of the inlet's clients goes to 127.0.0.1 port 25 while the spool is drained; remedy: "},
		{[]string{"drain", "--end"}, 0, ""},
	} {
		r := millrace(t, "MAIL_CONFIG="+dir, append([]string{"--config", file}, x.args...)...)
		said := r.stdout + r.stderr
		if r.code != x.code || !strings.Contains(said, x.says) || x.says == "" && strings.Contains(said, "inlet's clients") {
			t.Errorf("%s: exit code %d\n%s", x.args, r.code, said)
		}
	}
}

// What setup --inlet shows is for this host: its ports, and its MTA.
func TestSetupShowsWhatToSetForTheInlet(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		what, toml string
		files      []string
		shows      []string
		hides      []string
		lacks      string
	}{
		{"nothing set, Postfix", "", nil,
			[]string{"[inlet]\nlisten  = [\"inet:8825@127.0.0.1\"]\npass_to = \"inet:25@127.0.0.1\"\n", "listmonk", "smtp_port: 8825", "told by millrace check"},
			[]string{"manualroute", "action \"millrace\""}, "[inlet] listen is empty"},
		{"nothing set, Exim", "[milter]\nhost_domains = [\"example.com\"]\n", []string{"usr/sbin/exim4"},
			[]string{"pass_to = \"inet:10625@127.0.0.1\"\naccept_bypass = [\"not-postfix\"]\n", "driver = manualroute", "127.0.0.1::8825 : 127.0.0.1::10625"},
			[]string{"action \"millrace\"", "told by millrace check"}, "[inlet] listen is empty"},
		{"all set, Postfix", "[milter]\nhost_domains = [\"example.com\"]\n[inlet]\nlisten = [\"unix:/run/millrace-inlet/a\", \"inet:2525@127.0.0.2\"]\nallow = [\"*\"]\n", nil,
			[]string{"smtp_host: 127.0.0.2", "smtp_port: 2525", "define('PHPMAILERHOST', '127.0.0.2');"}, []string{"8825", "127.0.0.1", "Write this"}, ""},
		{"all set, OpenSMTPD", "[milter]\nhost_domains = [\"example.com\"]\n[inlet]\nlisten = [\"inet:2525@127.0.0.1\"]\npass_to = \"inet:2526@127.0.0.1\"\naccept_bypass = [\"not-postfix\"]\n[handback]\nrelay = \"127.0.0.1:527\"\n",
			[]string{"etc/smtpd.conf"}, []string{"smtp://127.0.0.1:2525", "port 2526 tag MILLRACE", "port 527 tag MILLRACE"}, []string{"8825", "10625", "10626", "manualroute"}, ""},
		{"Exim at port 25", "[milter]\nhost_domains = [\"example.com\"]\n[inlet]\nlisten = [\"inet:8825@127.0.0.1\"]\n", []string{"usr/sbin/exim4"},
			[]string{"127.0.0.1::10625"}, []string{"127.0.0.1::25"}, "would offer the mail to the inlet again"},
		{"Exim whose work nobody has accepted to be passed by", "[milter]\nhost_domains = [\"example.com\"]\n[inlet]\nlisten = [\"inet:8825@127.0.0.1\"]\npass_to = \"inet:2526@127.0.0.1\"\n",
			[]string{"usr/sbin/exim4"}, nil, nil, `accept_bypass has no "not-postfix"`},
		{"sockets alone", "[milter]\nhost_domains = [\"example.com\"]\n[inlet]\nlisten = [\"unix:/run/millrace-inlet/a\"]\nallow = [\"*\"]\n", nil,
			[]string{"of these only msmtp can send there"}, nil, ""},
		{"no domains", "[inlet]\nlisten = [\"inet:8825@127.0.0.1\"]\n", nil, nil, nil, "[milter] host_domains is empty"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "millrace.toml")
		if err := os.WriteFile(file, []byte("hostname = \"mail.example.com\"\n"+x.toml), 0o600); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for _, name := range x.files {
			files[name] = ""
		}
		var out strings.Builder
		err := (&setupCmd{}).inlet(&globals{program.Flags{Config: file}}, tree(files), &out)
		for _, s := range x.shows {
			if !strings.Contains(out.String(), s) {
				t.Errorf("%s: does not show %q:\n%s", x.what, s, out.String())
			}
		}
		for _, s := range x.hides {
			if strings.Contains(out.String(), s) {
				t.Errorf("%s: shows %q:\n%s", x.what, s, out.String())
			}
		}
		if (err == nil) != (x.lacks == "") || err != nil && !strings.Contains(err.Error(), x.lacks) {
			t.Errorf("%s: %v, want %q", x.what, err, x.lacks)
		}
	}
	r := millrace(t, "", "--config", filepath.Join(t.TempDir(), "none.toml"), "setup", "--inlet")
	if r.code == 0 {
		t.Errorf("without a configuration: %s%s", r.stdout, r.stderr)
	}
}
