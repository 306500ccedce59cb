package postconf

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
)

func TestExportKeepsTheIntentOfPostfix(t *testing.T) {
	t.Parallel()
	tables := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(tables, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "texthash:" + path
	}
	transport := file("transport", `gmail.com slow:
slow.example  slow:
.slow.example slow:
inside.example smtp:[10.0.0.5]
mine.example  local:
secure.example  tls:
plain.example :
user@odd.example slow:
`)
	dir := instance(t, `compatibility_level = 3.6
myhostname = mail.example.com
mydestination = $myhostname, mine.example
virtual_mailbox_domains = `+file("virtual", "Boxes.example x\n")+`
smtp_helo_name = out.example.com
inet_protocols = ipv4
smtp_bind_address = 192.0.2.7
smtp_tls_security_level = may
smtp_destination_concurrency_limit = 7
transport_maps = `+transport+` pcre:/nowhere/at/all
slow_destination_concurrency_limit = 3
slow_destination_rate_delay = 2s
tls_destination_recipient_limit = 1
`, `smtp inet n - y - - smtpd
smtp unix - - y - - smtp
slow unix - - y - - smtp
tls unix - - y - - smtp
  -o smtp_tls_security_level=encrypt
`)
	p, err := Read(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	toml := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(toml, []byte("[[queue]]\nname=\"google\"\ndomains=[\"gmail.com\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(toml)
	if err != nil {
		t.Fatal(err)
	}
	x := p.Export(c)
	if got := strings.Join(x.HostDomains, " "); x.Hostname != "out.example.com" || got != "mail.example.com mine.example boxes.example" {
		t.Errorf("hostname %q, domains %q", x.Hostname, got)
	}
	if len(x.Sources) != 1 || x.Sources[0].String() != "192.0.2.7" || !reflect.DeepEqual(x.Protocols, []string{"ipv4"}) {
		t.Errorf("sources %v, protocols %v", x.Sources, x.Protocols)
	}
	if x.TLS != "" || x.General != (Limits{Sessions: 7}) || !reflect.DeepEqual(x.Remote, []string{"smtp", "esmtp", "slow", "tls"}) {
		t.Errorf("tls %q, limits %+v, remote %v", x.TLS, x.General, x.Remote)
	}
	want := []ExportedQueue{
		{Name: "slow", Domains: []string{"slow.example", "*.slow.example"}, Limits: Limits{Sessions: 3, Delay: 2 * time.Second}},
		{Name: "elsewhere", Domains: []string{"inside.example"}, Handback: true},
		{Name: "tls", Domains: []string{"secure.example"}, Limits: Limits{Recipients: 1}, TLS: config.TLSRequired},
	}
	if !reflect.DeepEqual(x.Queues, want) {
		t.Errorf("queues %+v", x.Queues)
	}
	notes := strings.Join(x.Notes, "\n")
	for _, part := range []string{"gmail.com to slow:, and queue google", "user@odd.example", "pcre:/nowhere"} {
		if !strings.Contains(notes, part) {
			t.Errorf("no word of %s in %s", part, notes)
		}
	}
}
