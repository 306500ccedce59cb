package agent

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
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

// speaker is a receiver of few words that takes every message and notes what it
// saw of each connection.
type speaker struct {
	addr     netip.AddrPort
	conf     *tls.Config // nil: STARTTLS is offered and always fails
	implicit bool
	auth     string // "user password" that AUTH must bring; "": AUTH is not offered
	insists  bool   // 530 to MAIL in the clear
	stumbles int    // so many handshakes fail first

	mu       sync.Mutex
	starttls int
	hellos   []string
	mails    []bool // TLS?
	clients  int    // certificates shown
	authed   int
	greeted  int // connections
}

// listen serves until the test ends.
func (s *speaker) listen(t *testing.T) *speaker {
	t.Helper()
	s.addr = serveAt(t, "127.0.0.1:0", s.serve)
	return s
}

// serveAt has serve talk on each connection to an address until the test ends.
func serveAt(t *testing.T, at string, serve func(net.Conn)) netip.AddrPort {
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

func (s *speaker) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// seen counts the connections so far.
func (s *speaker) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.greeted
}

func (s *speaker) serve(nc net.Conn) {
	defer func() { nc.Close() }()
	secret, data := false, false
	secure := func() bool {
		tc := tls.Server(nc, s.conf)
		nc = tc
		if tc.Handshake() != nil {
			return false
		}
		secret = true
		s.note(func() { s.clients += len(tc.ConnectionState().PeerCertificates) })
		return true
	}
	if s.implicit && !secure() {
		return
	}
	in := bufio.NewReader(nc)
	say := func(text string) { fmt.Fprintf(nc, "%s\r\n", text) }
	s.note(func() { s.greeted++ })
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
			s.note(func() { s.mails = append(s.mails, secret) })
			say("250 ok")
		case data:
		case verb == "EHLO":
			s.note(func() { s.hellos = append(s.hellos, rest) })
			offer := "250-speaker.test\r\n"
			if !secret {
				offer += "250-STARTTLS\r\n"
			}
			if s.auth != "" {
				offer += "250-AUTH PLAIN\r\n"
			}
			say(offer + "250 PIPELINING")
		case verb == "STARTTLS":
			stumble := false
			s.note(func() { s.starttls++; stumble = s.starttls <= s.stumbles })
			say("220 go")
			if stumble || s.conf == nil || !secure() {
				return
			}
			in = bufio.NewReader(nc)
		case verb == "AUTH":
			_, word, _ := strings.Cut(rest, " ")
			b, _ := base64.StdEncoding.DecodeString(word)
			if strings.Join(strings.Split(strings.TrimPrefix(string(b), "\x00"), "\x00"), " ") != s.auth {
				say("535 5.7.8 no")
				continue
			}
			s.note(func() { s.authed++ })
			say("235 ok")
		case s.insists && !secret && (verb == "MAIL" || verb == "RCPT" || verb == "DATA"):
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

// pair makes a self-signed certificate for 127.0.0.1 and a name, and its file.
func pair(t *testing.T, name string) (cert tls.Certificate, certFile, keyFile string) {
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
