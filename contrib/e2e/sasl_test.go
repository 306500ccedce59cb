package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/contrib/lab/proxy"
)

// password of every user of the room.
const password = "secret"

// plain is the AUTH command of a user (RFC 4616).
func plain(user string) string {
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password))
}

// saslServer is a server of Dovecot's authentication protocol, as far as
// Postfix speaks it, so that the host's smtpd really authenticates. It returns
// main.cf parameters for that.
func saslServer(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sasl-") // t.TempDir is not passable for Postfix
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "auth")
	p, err := proxy.New(proxy.Options{Listen: "unix:" + socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.Answer(authenticate); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o755, socket: 0o666} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{
		"smtpd_sasl_type": "dovecot", "smtpd_sasl_path": socket, "smtpd_sasl_security_options": "noanonymous",
	}
}

// authenticate serves one connection of an smtpd.
func authenticate(c net.Conn) {
	fmt.Fprint(c, "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		words := strings.Split(lines.Text(), "\t")
		if words[0] != "AUTH" || len(words) < 3 {
			continue // VERSION and CPID
		}
		response, _ := strings.CutPrefix(words[len(words)-1], "resp=")
		said, _ := base64.StdEncoding.DecodeString(response)
		if f := bytes.Split(said, []byte{0}); len(f) == 3 && string(f[2]) == password {
			fmt.Fprintf(c, "OK\t%s\tuser=%s\n", words[1], f[1])
		} else {
			fmt.Fprintf(c, "FAIL\t%s\n", words[1])
		}
	}
}
