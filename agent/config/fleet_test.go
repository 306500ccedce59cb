package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

func TestFleetIsOffUnlessItIsNamed(t *testing.T) {
	t.Parallel()
	c, notices := load(t, "[fleet]\nname = \"\"\nservers = [\"valkey://127.0.0.1:6379\"]\npassword_file = \"/nowhere/password\"\n"+
		"[general]\nshared = true\n[[stream]]\nname = \"news\"\nmax_message_rate = \"5/s\"\nshared = true\n")
	if c.Fleet.On() || c.Fleet.Node != "" || c.SharedQueue(&c.General) {
		t.Errorf("%+v", c.Fleet)
	}
	if len(notices) != 2 || notices[0].Line != 7 || notices[1].Line != 11 || !strings.Contains(notices[1].Text, "is of no fleet") {
		t.Errorf("notices: %v", notices)
	}
}

func TestFleet(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	p, err := selfsigned.New("mx1")
	if err != nil {
		t.Fatal(err)
	}
	refused := func(text string) error {
		_, _, err := Load(write("millrace.toml", "hostname = \"mail.example.com\"\n"+text))
		return err
	}
	cert, key, password := write("cert.pem", string(p.Cert)), write("key.pem", string(p.Key)), write("password", "geheim\n")
	text := "[spool]\ndirectory = \"" + dir + "\"\n[fleet]\nname = \"mail\"\nnode = \"mx1\"\nuser = \"millrace\"\npassword_file = \"" + password + "\"\n" +
		"tls_ca_file = \"" + cert + "\"\ntls_cert_file = \"" + cert + "\"\ntls_key_file = \"" + key + "\"\nnodes = 3\nlisten = \"[::1]:8892\"\n" +
		"servers = [\"rediss://store.example.com\", \"valkey://192.0.2.7:6380\", \"redis://[::1]:1\"]\n[general]\nshared = true\n[[queue]]\nname = \"a\"\ndomains = [\"a.example\"]\n"
	c, notices := load(t, text)
	f := c.Fleet
	want := []FleetStore{{"store.example.com:6379", true}, {"192.0.2.7:6380", false}, {"[::1]:1", false}}
	if !f.On() || !slices.Equal(f.Stores, want) || f.Password != "geheim" || f.Advertise != f.Listen || f.Nodes != 3 || f.StoreRefused+f.KeyRefused+f.Alone() != "" {
		t.Errorf("%+v", f)
	}
	if !c.SharedQueue(c.Queue("a")) {
		t.Error("a queue does not begin with what [general] says of sharing")
	}
	if len(notices) != 1 || !strings.Contains(notices[0].Text, "servers: what goes to 192.0.2.7:6380") {
		t.Errorf("notices: %v", notices)
	}
	for _, secret := range []string{key, password} {
		if err := os.Chmod(secret, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := refused(text); err == nil || !strings.Contains(err.Error(), "password_file: ") || !strings.Contains(err.Error(), "has mode 0644") {
		t.Errorf("a password for all to read: %v", err)
	}
	if err := os.Chmod(password, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _ := load(t, text); !strings.Contains(c.Fleet.KeyRefused, "everybody can read") || len(c.Refused) != 1 {
		t.Errorf("a key for all to read: %q, %v", c.Fleet.KeyRefused, c.Refused)
	}
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	// Files that cannot be used do not keep a host from starting.
	damaged, gone := write("damaged.pem", "-----BEGIN CERTIFICATE-----\nAA"), filepath.Join(dir, "gone.pem")
	for what, x := range map[string]struct{ from, to, want string }{
		"another node's certificate": {`"mx1"`, `"mx2"`, `is not for node "mx2"`},
		"a certificate that is gone": {"tls_cert_file = \"" + cert, "tls_cert_file = \"" + gone, "no such file"},
		"a damaged certificate":      {"tls_cert_file = \"" + cert, "tls_cert_file = \"" + damaged, "tls_cert_file: certificate and key cannot be used"},
		"a key that is gone":         {"tls_key_file = \"" + key, "tls_key_file = \"" + gone, "no such file"},
		"an authority that is gone":  {"tls_ca_file = \"" + cert, "tls_ca_file = \"" + gone, "tls_ca_file: "},
		"a damaged authority":        {"tls_ca_file = \"" + cert, "tls_ca_file = \"" + damaged, "has no certificate"},
	} {
		c, _ := load(t, strings.Replace(text, x.from, x.to, 1))
		if !strings.Contains(c.Fleet.KeyRefused, x.want) || len(c.Refused) != 1 || c.Refused[0].Line == 0 || !strings.Contains(c.Refused[0].Text, x.want) || !strings.Contains(c.Refused[0].Text, "; remedy: ") {
			t.Errorf("%s: %q, %v", what, c.Fleet.KeyRefused, c.Refused)
		}
		if a := c.Fleet.Alone(); !strings.Contains(a, x.want) || !strings.Contains(a, "; remedy: ") {
			t.Errorf("%s: alone: %q", what, a)
		}
	}
	// Nor does a node without certificates, which is told.
	bare := text
	for _, line := range strings.SplitAfter(text, "\n") {
		if strings.HasPrefix(line, "tls_") || strings.HasPrefix(line, "listen") {
			bare = strings.Replace(bare, line, "", 1)
		}
	}
	if c, notices := load(t, bare); c.Fleet.Alone() == "" || len(notices) != 2 || notices[0].Line == 0 || notices[0].Text != c.Fleet.Alone() {
		t.Errorf("without certificates: %q, %v", c.Fleet.Alone(), notices)
	}
	c, _ = load(t, "[fleet]\nname = \"mail\"\nservers = [\"valkey://127.0.0.1\"]\n")
	own, err := os.Hostname()
	if first, _, _ := strings.Cut(own, "."); err != nil || c.Fleet.Node != strings.ToLower(first) {
		t.Errorf("node %q on host %q, %v", c.Fleet.Node, own, err)
	}
}
