// Package smtptest is a receiver for tests of what the agent does about STARTTLS, AUTH and
// certificates: on a real socket, with broken handshakes where they are asked for.
package smtptest

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/contrib/lab/proxy"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

// Server is a receiver of few words that takes every message and notes what it
// saw of each connection.
type Server struct {
	Addr     netip.AddrPort
	Conf     *tls.Config // nil: STARTTLS is offered and always fails
	Implicit bool
	Auth     string // "user password" that AUTH must bring; "": AUTH is not offered
	Insists  bool   // 530 to MAIL in the clear
	Stumbles int    // so many handshakes fail first
	Mute     bool   // nothing is said through TLS: the connection is closed after the handshake
	Silent   bool   // the handshake is never answered
	Shaking  func() // is called before each handshake; may be nil

	Mu       sync.Mutex // of those below, while it listens
	StartTLS int
	Hellos   []string
	Mails    []bool // TLS?
	Clients  int    // certificates shown
	Authed   int
	Greeted  int // connections
}

// Listen serves on loopback until the test ends.
func (s *Server) Listen(t *testing.T) *Server {
	t.Helper()
	s.Addr = ServeAt(t, "127.0.0.1:0", s.Serve)
	return s
}

// ServeAt has serve talk on each connection to an address until the test ends, and
// returns the address with its port.
func ServeAt(t *testing.T, at string, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	p, err := proxy.New(proxy.Options{Listen: at})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.Answer(serve); err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddrPort(p.Addr())
}

func (s *Server) note(f func()) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	f()
}

// Seen counts the connections so far.
func (s *Server) Seen() int {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	return s.Greeted
}

// Serve serves one connection until it ends.
func (s *Server) Serve(nc net.Conn) {
	defer func() { nc.Close() }()
	secret, data := false, false
	secure := func() bool {
		tc := tls.Server(nc, s.Conf)
		nc = tc
		if tc.Handshake() != nil {
			return false
		}
		secret = true
		if s.Mute {
			return false
		}
		s.note(func() { s.Clients += len(tc.ConnectionState().PeerCertificates) })
		return true
	}
	if s.Implicit && !secure() {
		return
	}
	in := bufio.NewReader(nc)
	say := func(text string) { fmt.Fprintf(nc, "%s\r\n", text) }
	s.note(func() { s.Greeted++ })
	say("220 speaker.test")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		switch {
		case data && verb == ".":
			data = false
			s.note(func() { s.Mails = append(s.Mails, secret) })
			say("250 ok")
		case data:
		case verb == "EHLO":
			s.note(func() { s.Hellos = append(s.Hellos, rest) })
			offer := "250-speaker.test\r\n"
			if !secret {
				offer += "250-STARTTLS\r\n"
			}
			if s.Auth != "" {
				offer += "250-AUTH PLAIN\r\n"
			}
			say(offer + "250 PIPELINING")
		case verb == "STARTTLS":
			stumble := false
			s.note(func() { s.StartTLS++; stumble = s.StartTLS <= s.Stumbles })
			say("220 go")
			if s.Shaking != nil {
				s.Shaking()
			}
			if s.Silent {
				io.Copy(io.Discard, nc)
				return
			}
			if stumble || s.Conf == nil || !secure() {
				return
			}
			in = bufio.NewReader(nc)
		case verb == "AUTH":
			_, word, _ := strings.Cut(rest, " ")
			b, _ := base64.StdEncoding.DecodeString(word)
			if strings.Join(strings.Split(strings.TrimPrefix(string(b), "\x00"), "\x00"), " ") != s.Auth {
				say("535 5.7.8 no")
				continue
			}
			s.note(func() { s.Authed++ })
			say("235 ok")
		case s.Insists && !secret && (verb == "MAIL" || verb == "RCPT" || verb == "DATA"):
			say("530 5.7.0 Must issue a STARTTLS command first")
		case verb == "DATA":
			data = true
			say("354 go")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// Pair makes a self-signed certificate for 127.0.0.1 and a name, and its file.
func Pair(t *testing.T, name string) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	p, err := selfsigned.New(name, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, octets := range map[string][]byte{certFile: p.Cert, keyFile: p.Key} {
		if err := os.WriteFile(file, octets, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p.TLS, certFile, keyFile
}
