package dane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate, signed by parent or, without one, by itself.
func issue(t *testing.T, parent *issued, change func(*x509.Certificate)) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "c" + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
	}
	change(template)
	signer := &issued{template, key}
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, key}
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
}

func server(names ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = names, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
}

// of makes the record that matches a certificate.
func of(c *x509.Certificate, usage, selector, matching uint8) Record {
	part := c.Raw
	if selector == SPKI {
		part = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case SHA256:
		sum := sha256.Sum256(part)
		part = sum[:]
	case SHA512:
		sum := sha512.Sum512(part)
		part = sum[:]
	}
	return Record{usage, selector, matching, string(part)}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	root := issue(t, nil, authority)
	sub := issue(t, root, authority)
	leaf := issue(t, sub, server("mx.example"))
	domainLeaf := issue(t, sub, server("example"))
	elsewhere := issue(t, sub, server("other.example"))
	expired := issue(t, sub, func(c *x509.Certificate) {
		server("mx.example")(c)
		c.NotAfter = time.Now().Add(-time.Minute)
	})
	bare := issue(t, nil, func(*x509.Certificate) {}) // no name, signed by itself
	stranger := issue(t, nil, authority)

	chain := func(list ...*issued) (c []*x509.Certificate) {
		for _, x := range list {
			c = append(c, x.cert)
		}
		return c
	}
	full := chain(leaf, sub, root)
	tests := []struct {
		name    string
		records []Record
		chain   []*x509.Certificate
		wrong   string // part of the error; "" accepts
	}{
		{"ee, whole certificate", []Record{of(leaf.cert, 3, 0, 0)}, full, ""},
		{"ee, certificate by SHA2-256", []Record{of(leaf.cert, 3, 0, 1)}, full, ""},
		{"ee, certificate by SHA2-512", []Record{of(leaf.cert, 3, 0, 2)}, full, ""},
		{"ee, whole key", []Record{of(leaf.cert, 3, 1, 0)}, full, ""},
		{"ee, key by SHA2-256", []Record{of(leaf.cert, 3, 1, 1)}, full, ""},
		{"ee, key by SHA2-512", []Record{of(leaf.cert, 3, 1, 2)}, full, ""},
		{"ee minds no name and no authority", []Record{of(bare.cert, 3, 1, 1)}, chain(bare), ""},
		{"ee minds no date", []Record{of(expired.cert, 3, 1, 1)}, chain(expired), ""},
		{"ee of another key", []Record{of(stranger.cert, 3, 1, 1)}, full, "matches none"},
		{"ee names only the server's own", []Record{of(sub.cert, 3, 1, 1)}, full, "matches none"},
		{"one of several", []Record{of(stranger.cert, 3, 1, 1), of(leaf.cert, 3, 1, 1)}, full, ""},
		{"ta, root", []Record{of(root.cert, 2, 0, 1)}, full, ""},
		{"ta, root's key", []Record{of(root.cert, 2, 1, 2)}, full, ""},
		{"ta, intermediate", []Record{of(sub.cert, 2, 1, 1)}, chain(leaf, sub), ""},
		{"ta, the domain's name", []Record{of(sub.cert, 2, 1, 1)}, chain(domainLeaf, sub), ""},
		{"ta, not sent", []Record{of(root.cert, 2, 0, 1)}, chain(leaf, sub), "matches none"},
		{"ta, not sent but in the record", []Record{of(root.cert, 2, 0, 0)}, chain(leaf, sub), ""},
		{"ta, sent but no parent", []Record{of(stranger.cert, 2, 0, 1)}, chain(leaf, sub, stranger), "chain to the authority"},
		{"ta, another name", []Record{of(sub.cert, 2, 1, 1)}, chain(elsewhere, sub), "none of the names mx.example, example"},
		{"ta, expired", []Record{of(sub.cert, 2, 1, 1)}, chain(expired, sub), "expired"},
		{"ta of the server itself", []Record{of(leaf.cert, 2, 1, 1)}, full, "matches none"},
		{"no certificate", []Record{of(leaf.cert, 3, 1, 1)}, nil, "no certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			records := Usable(tt.records)
			if len(records) != len(tt.records) {
				t.Fatalf("usable: %v of %v", records, tt.records)
			}
			err := Verify(records, tt.chain, []string{"mx.example", "example"}, time.Now())
			if tt.wrong == "" && err != nil || tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("error %v, want %q", err, tt.wrong)
			}
		})
	}
}

func TestUsable(t *testing.T) {
	t.Parallel()
	d32, d64 := strings.Repeat("a", 32), strings.Repeat("b", 64)
	tests := []struct {
		name      string
		all, want []Record
	}{
		{"pkix usages", []Record{{0, 1, 1, d32}, {1, 1, 1, d32}}, nil},
		{"unknown usage", []Record{{4, 1, 1, d32}}, nil},
		{"unknown selector", []Record{{3, 2, 1, d32}, {3, 2, 0, d32}}, nil},
		{"unknown matching", []Record{{3, 1, 3, d32}}, nil},
		{"wrong length", []Record{{3, 1, 1, d64}, {3, 1, 2, d32}, {2, 0, 1, ""}}, nil},
		{"no certificate", []Record{{3, 0, 0, "x"}, {3, 1, 0, "x"}}, nil},
		{"some", []Record{{1, 1, 1, d32}, {3, 1, 1, d32}}, []Record{{3, 1, 1, d32}}},
		{"twice", []Record{{3, 1, 1, d32}, {3, 1, 1, d32}}, []Record{{3, 1, 1, d32}}},
		{"the stronger digest counts", []Record{{3, 1, 1, d32}, {3, 1, 2, d64}}, []Record{{3, 1, 2, d64}}},
		{"of the same usage and selector only", []Record{{3, 1, 1, d32}, {2, 1, 2, d64}, {3, 0, 2, d64}},
			[]Record{{2, 1, 2, d64}, {3, 0, 2, d64}, {3, 1, 1, d32}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Usable(tt.all)
			if len(got) != len(tt.want) {
				t.Fatalf("%v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("%v, want %v", got, tt.want)
				}
			}
		})
	}
}
