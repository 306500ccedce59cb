package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
)

// StartOpenSMTPD starts Debian's OpenSMTPD as a receiver. It offers STARTTLS, but
// in bookworm's version 6.8.0p2 no handshake succeeds, with no kind of key: that
// version knows no OpenSSL 3 (OpenSMTPD's issues 1171 and 1239). So it is a real
// host whose STARTTLS is broken.
func StartOpenSMTPD(ctx context.Context, o ReceiverOptions) (Receiver, error) {
	return startFar(ctx, "opensmtpd", o, installOpenSMTPD)
}

// Users of OpenSMTPD; only the tree knows their numbers.
const (
	opensmtpd = 64104
	opensmtpq = 64105
)

func installOpenSMTPD(f *far, o ReceiverOptions) ([]string, error) {
	t := f.tree
	listen, port, err := net.SplitHostPort(f.smtp)
	if err != nil {
		return nil, err
	}
	conf := strings.NewReplacer("LISTEN", listen, "PORT", port, "DOMAINS", strings.Join(o.domains(), ", "), "HOSTNAME", Hostname).Replace(openSMTPDConf)
	return []string{"/usr/sbin/smtpd", "-d"}, errors.Join(
		t.user("opensmtpd", opensmtpd), t.user("opensmtpq", opensmtpq),
		t.directory("/var/lib/opensmtpd/empty", 0, 0, 0o755),
		t.directory("/var/spool/smtpd", 0, 0, 0o711),
		t.directory("/run/opensmtpd", 0, 0, 0o755),
		t.write("/etc/mailname", Hostname+"\n"),
		t.write("/etc/smtpd.conf", conf),
		os.Chmod(t.path("/etc/smtpd.conf"), 0o600),
		t.certificate(0),
	)
}

const openSMTPDConf = `
pki lab cert "` + certFile + `"
pki lab key "` + keyFile + `"
table users { "@" = "nobody" }
listen on LISTEN port PORT hostname HOSTNAME tls pki lab
action "box" maildir "` + boxDir + `" virtual <users>
match from any for domain { DOMAINS } action "box"
`
