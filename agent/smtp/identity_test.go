package smtp

import (
	"crypto/tls"
	"testing"

	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// identity is a certificate for mx.example that signs itself, as the server shows
// it and as a client that knows it verifies it. It may serve as a client's too.
type identity struct {
	server, client *tls.Config
}

func newIdentity(t testing.TB) identity {
	t.Helper()
	pair, err := selfsigned.New("mx.example")
	if err != nil {
		t.Fatal(err)
	}
	return identity{
		server: &tls.Config{Certificates: []tls.Certificate{pair.TLS}},
		client: &tls.Config{RootCAs: pair.Roots()},
	}
}
