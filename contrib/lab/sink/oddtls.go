package sink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
)

// change gives a TLS configuration the manner.
func (m TLSManner) change(c *tls.Config) *tls.Config {
	switch m {
	case TLSSmall:
		c = c.Clone()
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Contains(h.SupportedCurves, tls.X25519MLKEM768) {
				h.Conn.Read(make([]byte, 1)) // until the client has gone
				return nil, errors.New("the rest of the ClientHello never came")
			}
			return nil, nil
		}
	case TLSCertificate:
		c = c.Clone()
		c.ClientAuth = tls.RequestClientCert
		c.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
			if len(raw) > 0 {
				return errors.New("a client's certificate is not wanted")
			}
			return nil
		}
	}
	return c
}
