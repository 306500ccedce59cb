package config

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key that cannot be used is no error that keeps the daemons from running: mail of its domain
// goes to the host, and that is said.
func TestKeysThatCannotSignAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pemOf := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(key any) string {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pemOf("PRIVATE KEY", der)
	}
	long, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		text string
		mode os.FileMode
		want string // "": it signs
	}{
		"pkcs1":    {pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long)), 0o600, ""},
		"pkcs8":    {pkcs8(long), 0o640, ""},
		"ed25519":  {pkcs8(edwards), 0o600, ""},
		"open":     {pkcs8(long), 0o644, "can be read by everybody"},
		"missing":  {"", 0, "cannot be read: no such file or directory"},
		"empty":    {"", 0o600, "has no PEM"},
		"public":   {"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 0o600, "has no private key"},
		"elliptic": {pkcs8(curve), 0o600, "neither RSA nor Ed25519"},
		"short":    {pemOf("RSA PRIVATE KEY", shortKey(t)), 0o600, "RSA key of 512 bits, which receivers ignore"},
	} {
		file := filepath.Join(dir, name)
		if x.mode != 0 {
			if err := os.WriteFile(file, []byte(x.text), x.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, x.mode); err != nil {
				t.Fatal(err)
			}
		}
		c, notices := load(t, "[spool]\ndirectory = \""+dir+"\"\n[[dkim]]\ndomain = \"News.example.com\"\nselector = \"s1\"\nkey_file = \""+file+"\"\n")
		d := c.DKIMFor("deep.news.example.com")
		if len(notices) > 0 || d == nil || (d.Signer != nil) != (x.want == "") || (len(c.Refused) == 0) != (x.want == "") {
			t.Errorf("%s: %+v, refused %v, noticed %v", name, d, c.Refused, notices)
			continue
		}
		for _, n := range c.Refused {
			if n.Line != 7 || !strings.HasPrefix(n.Text, `key_file: "`+file+`" `) || !strings.Contains(n.Text, x.want) || !strings.Contains(n.Text, "; remedy: ") {
				t.Errorf("%s: %v", name, n)
			}
		}
	}
}

// shortKey is an RSA key of 512 bits, of which crypto/rsa makes none, in the form of RFC 8017
// appendix A.1.2.
func shortKey(t *testing.T) []byte {
	t.Helper()
	one, e := big.NewInt(1), big.NewInt(65537)
	for {
		p, err := rand.Prime(rand.Reader, 256)
		if err != nil {
			t.Fatal(err)
		}
		q, err := rand.Prime(rand.Reader, 256)
		if err != nil {
			t.Fatal(err)
		}
		p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
		d := new(big.Int).ModInverse(e, new(big.Int).Mul(p1, q1))
		if d == nil || p.Cmp(q) == 0 {
			continue
		}
		der, err := asn1.Marshal([]any{
			0, new(big.Int).Mul(p, q), e, d, p, q, new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), new(big.Int).ModInverse(q, p),
		})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
}
