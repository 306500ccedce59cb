package inlet_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/agent/config"
)

// What the inlet spools is signed for the From's domain, unless it is signed; what has no
// usable key goes to the host.
func TestSpooledMailIsSigned(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(c *config.Config) {
		c.DKIM = []config.DKIM{{Domain: "b.test", Selector: "s1", Signer: key}, {Domain: "nokey.test", Selector: "s1"}}
	})
	c := s.dial()
	c.hello()
	for _, x := range []struct{ content, reply string }{
		{text, "250 2.0.0 Ok: queued"},
		{"DKIM-Signature: v=1; d=b.test; s=x\r\n" + text, "250 2.0.0 Ok: queued"},
		{strings.Replace(text, "a@b.test", "a@other.test", 1), "250 2.0.0 Ok: queued"},
		{strings.Replace(text, "a@b.test", "a@nokey.test", 1), "250 2.1.0 Ok"},
	} {
		c.send("MAIL FROM:<n@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n" + stuffed(x.content))
		c.wants("250", "250", "354", x.reply)
	}
	got := s.spooled()
	if len(got) != 3 || len(s.mta.all()) != 1 {
		t.Fatalf("%d in the spool, %d at the MTA", len(got), len(s.mta.all()))
	}
	_, signed, _ := strings.Cut(got[0], "\n")
	if !strings.HasSuffix(signed, text) {
		t.Errorf("%q", signed)
	}
	found, err := dkim.VerifyWithOptions(strings.NewReader("Received: by x\r\n"+signed), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		if name != "s1._domainkey.b.test" {
			t.Errorf("asks for %s", name)
		}
		return []string{"v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)}, nil
	}})
	if err != nil || len(found) != 1 || found[0].Err != nil || found[0].Domain != "b.test" {
		t.Errorf("%v, %+v", err, found)
	}
	for _, other := range got[1:] {
		if strings.Contains(other, "s=s1") {
			t.Errorf("signed: %q", other)
		}
	}
}
