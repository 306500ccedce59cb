package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

const webhooks = `
-- millrace.toml --
hostname = "mail.example.com"
-- conf.d/webhook.toml --
[[webhook]]
name = "crm"
url = "https://crm.example.com/events"
events = ["sent", "bounced"]
streams = ["news-*"]
secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz whsec_MzIxMDk4NzY1NDMyMTA5ODc2NTQzMjEw"
[[webhook]]
name = "listmonk"
url = "http://127.0.0.1:9000/webhooks/bounce"
form = "listmonk"
user = "api"
password_file = "DIR/token"
[simulate]
domain = "Simulated.Test"
-- token --
t0ken
`

func TestWebhooksAndTheirSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(strings.ReplaceAll(webhooks, "DIR", dir))).Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "millrace.toml")
	c, notices, err := Load(file)
	if err != nil || len(notices) > 0 || len(c.Refused) > 0 || len(c.Webhooks) != 2 {
		t.Fatalf("%v, %v, %v", err, notices, c)
	}
	crm, listmonk := c.Webhooks[0], c.Webhooks[1]
	if len(crm.Keys) != 2 || string(crm.Keys[1]) != "321098765432109876543210" || crm.Form != FormMillrace || crm.Refused != "" || !slices.Equal(crm.Events, []string{"sent", "bounced"}) {
		t.Errorf("%+v", crm)
	}
	if listmonk.Password != "t0ken" || listmonk.Refused != "" || !slices.Equal(listmonk.Events, []string{"bounced", "late_bounce", "complaint"}) {
		t.Errorf("%+v", listmonk)
	}
	for name, want := range map[string]bool{"simulated.test": true, "A.SIMULATED.test.": true, "unsimulated.test": false, "test": false, "": false} {
		if c.Simulates(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	// What others can read is not used; the others go on.
	for _, name := range []string{"conf.d/webhook.toml", "token"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err = Load(file)
	if err == nil || !strings.Contains(err.Error(), "webhook.toml:12: password_file:") || !strings.Contains(err.Error(), "has mode 0644") || strings.Contains(err.Error(), "t0ken") {
		t.Errorf("%v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "token"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "token"), 0, 12345); err != nil {
		t.Fatal(err)
	}
	c, _, err = Load(file)
	if err != nil || len(c.Refused) != 2 || c.Webhooks[0].Refused == "" || c.Webhooks[1].Refused == "" || c.Webhooks[1].Password != "" {
		t.Fatalf("%v, %+v", err, c)
	}
	for i, want := range []string{"webhook.toml:6: secret: everybody can read", "webhook.toml:12: password_file: group 12345 can read"} {
		if got := c.Refused[i].String(); !strings.Contains(got, want) || strings.Contains(got, "whsec_") {
			t.Errorf("%s", got)
		}
	}
}
