package e2e

import (
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab"
)

// keyText are the strings of the record that opendkim-genkey writes for the DNS.
var keyText = regexp.MustCompile(`"([^"]*)"`)

// TestOpendkimVerifiesWhatTheInletSigned has a key made by opendkim-genkey, and what arrives
// verified by opendkim.
func TestOpendkimVerifiesWhatTheInletSigned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, err := exec.Command("opendkim-genkey", "-b", "2048", "-d", "lab.test", "-s", "s1", "-D", dir).CombinedOutput(); err != nil {
		t.Fatalf("opendkim-genkey: %v: %s", err, out)
	}
	record := ""
	for _, part := range keyText.FindAllStringSubmatch(read(t, filepath.Join(dir, "s1.txt")), -1) {
		record += part[1]
	}
	s, addr := withInlet(t, setup{keep: true, millrace: lab.MillraceOptions{
		Extra: "[[dkim]]\ndomain = \"lab.test\"\nselector = \"s1\"\nkey_file = \"" + filepath.Join(dir, "s1.private") + "\"\n",
	}})
	r := enter(t, s)
	r.spools(addr)
	content := news("signed") + "..\r\nGrüße  \r\n" + strings.Repeat("long ", 190) + "\r\n\r\n\r\n"
	letter := strings.NewReplacer("List-Id", "X-Other", "List-Unsubscribe", "X-More").Replace(news("passed"))
	for _, c := range []string{content, letter} {
		if err := smtp.SendMail(addr, nil, "news@lab.test", []string{"a@far.test"}, []byte(c)); err != nil {
			t.Fatal(err)
		}
	}
	r.until("both have arrived", func() bool { return len(r.copies("signed"))+len(r.copies("passed")) == 2 })
	got := r.copies("signed")[0].content
	if passed := r.copies("passed")[0].content; strings.Contains(passed, "DKIM-Signature") || strings.Count(got, "DKIM-Signature") != 1 || !strings.HasSuffix(got, content) {
		t.Errorf("arrived %q\nand what was passed to Postfix %q", got, passed)
	}
	conf := filepath.Join(dir, "opendkim.conf")
	for name, text := range map[string]string{
		conf:                             "Mode v\nSyslog no\nTestDNSData file:" + filepath.Join(dir, "dns") + "\n",
		filepath.Join(dir, "dns"):        "s1._domainkey.lab.test " + record + "\n",
		filepath.Join(dir, "as-it-came"): got,
		filepath.Join(dir, "altered"):    strings.Replace(got, "Subject: signed", "Subject: other", 1),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, verdict := range map[string]string{"as-it-came": "dkim=pass (2048-bit key) header.d=lab.test", "altered": "dkim=fail"} {
		out, _ := exec.CommandContext(r.ctx, "/usr/sbin/opendkim", "-x", conf, "-vv", "-t", filepath.Join(dir, name)).CombinedOutput()
		if !strings.Contains(string(out), verdict) {
			t.Errorf("opendkim says of the message %s: %s", name, out)
		}
	}
}
