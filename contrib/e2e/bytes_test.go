package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// What leaves is what the client sent, for every size, shape and number of
// recipients.
func TestEveryByteArrives(t *testing.T) {
	t.Parallel()
	var domains []string
	for i := range 20 {
		domains = append(domains, fmt.Sprintf("d%d.example", i))
	}
	r := enter(t, setup{providers: []sink.Provider{
		{Name: "one", Domains: domains[:4], Hosts: 2, Behaviour: sink.Behaviour{OneDomain: true}},
		// A receiver that knows none of the extensions, and some that know TLS or CHUNKING.
		{Name: "two", Domains: domains[4:8], Behaviour: sink.Behaviour{Hide: []string{"PIPELINING", "8BITMIME", "SIZE", "DSN", "ENHANCEDSTATUSCODES"}}},
		{Name: "three", Domains: domains[8:12], Hosts: 3, Behaviour: sink.Behaviour{StartTLS: true, Chunking: true, MaxMessages: 10}},
		{Name: "others", Domains: domains[12:], Hosts: 2, Behaviour: sink.Behaviour{Chunking: true, TempShare: 0.05, TempTimes: 1}},
	}, millrace: lab.MillraceOptions{Set: map[string]string{"general.retry": `["1s"]`}}})

	g := &inject.Generator{
		Seed: 2, Domains: domains, MinSize: 1 << 10, MaxSize: 5 << 20,
		MinRecipients: 1, MaxRecipients: 50, Shapes: inject.AllShapes,
	}
	n, octets := 0, 0
	for octets < volume {
		octets += len(g.Message(n).Content)
		n++
	}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 4, Timeout: patience}
	sent, err := in.Run(r.ctx, n, g.Message)
	if err != nil || sent.Messages != n {
		t.Fatalf("Postfix took %d of %d messages: %v %v", sent.Messages, n, sent.Err, err)
	}
	r.exact(sent.Ledger)
	for _, a := range r.all() {
		if !a.ours() {
			t.Errorf("%s to %s went by Postfix", a.id, a.recipient)
		}
	}
	if st := r.Internet.Stats(); st.Provider("others").Refused[sink.CauseTemp] == 0 {
		t.Error("no recipient was deferred: the test does not show that a second try sends the same")
	}
}

// A signature that a milter before ours made holds at the receiver, in the
// strictest canonicalisation.
func TestDKIMSignatureSurvives(t *testing.T) {
	t.Parallel()
	socket, key := opendkim(t, "sender.test")
	r := enter(t, setup{keep: true, postfix: lab.PostfixOptions{Milter: socket + ", " + lab.RelativeSocket}})

	const n = 40
	g := &inject.Generator{Seed: 7, Domains: farDomains[:2], MaxSize: 100 << 10, MaxRecipients: 3, Shapes: inject.AllShapes, Sender: "bounce@sender.test"}
	in := &inject.Injector{Addr: r.Postfix.SMTPAddr(), Connections: 2}
	sent, err := in.Run(r.ctx, n, g.Message)
	if err != nil || sent.Messages != n {
		t.Fatalf("Postfix took %d of %d messages: %v %v", sent.Messages, n, sent.Err, err)
	}
	r.exact(sent.Ledger)
	lookup := func(name string) ([]string, error) {
		if name != "test._domainkey.sender.test" {
			return nil, fmt.Errorf("no key at %s", name)
		}
		return []string{key}, nil
	}
	for _, a := range r.all() {
		if !a.ours() {
			t.Errorf("%s went by Postfix", a.id)
		}
		got, err := dkim.VerifyWithOptions(strings.NewReader(a.content), &dkim.VerifyOptions{LookupTXT: lookup})
		if err != nil || len(got) != 1 || got[0].Err != nil || len(got[0].HeaderKeys) < 5 {
			t.Errorf("%s to %s: %d signatures %+v, %v\n%.2000s", a.id, a.recipient, len(got), got, err, a.content)
		}
	}
}

// opendkim starts Debian's signing milter for a domain. It returns its entry
// for smtpd_milters and the TXT record of its key, selector "test".
func opendkim(t *testing.T, domain string) (milter, txt string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "opendkim-") // t.TempDir is not passable for Postfix
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, conf, socket := filepath.Join(dir, "key"), filepath.Join(dir, "conf"), filepath.Join(dir, "sock")
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	settings := fmt.Sprintf("Mode s\nDomain %s\nSelector test\nKeyFile %s\nSocket local:%s\nUMask 000\n"+
		"Canonicalization simple/simple\nInternalHosts 127.0.0.0/8\nRequireSafeKeys no\nSyslog no\n", domain, file, socket)
	for name, content := range map[string]string{file: string(private), conf: settings} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	cmd := exec.Command("/usr/sbin/opendkim", "-f", "-x", conf)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install the package opendkim (make deps)", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = lab.Until(ctx, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil, nil
	})
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("opendkim does not answer: %s", &said)
	}
	return "unix:" + socket, "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(public)
}
