package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"time"
)

// ReceiverOptions says where a real MTA receives mail, and for whom.
type ReceiverOptions struct {
	// Addr is where it listens: "127.0.0.9:25". Default: a free loopback port.
	Addr string
	// Domains are those that it takes mail for, besides LocalDomain.
	Domains []string
	// DNS is the address, without a port, of the name server. Default: Resolver.
	DNS string
}

// Receiver is a real MTA at the far end.
type Receiver interface {
	SMTPAddr() string
	// Mailbox returns what it has delivered for one address, oldest first.
	Mailbox(addr string) ([]Message, error)
	Log() string
	Stop() error
}

var (
	_ Receiver = (*Postfix)(nil)
	_ Receiver = (*Sendmail)(nil)
)

// Where a tree has its certificate for STARTTLS.
const (
	certFile = "/etc/ssl/lab-cert.pem"
	keyFile  = "/etc/ssl/lab-key.pem"
)

// certificate makes a certificate that nobody else signed. Its key is readable
// to one user.
func (t *tree) certificate(uid int) error {
	cert, key, err := selfSigned()
	if err != nil {
		return err
	}
	return errors.Join(
		t.write(certFile, cert), t.write(keyFile, key),
		os.Chown(t.path(keyFile), uid, 0), os.Chmod(t.path(keyFile), 0o600),
	)
}

// selfSigned is a certificate for Hostname and its key, in PEM.
func selfSigned() (cert, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: Hostname},
		DNSNames:     []string{Hostname},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), nil
}
