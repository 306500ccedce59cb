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
	f, err := startFar(ctx, "opensmtpd", o.Addr, "", func(f *far) ([]string, error) {
		listen, err := listenOn(f.smtp, "hostname "+Hostname+" tls pki lab")
		return f.installOpenSMTPD(openSMTPDPKI+listen+openSMTPDBox+
			"match from any for domain { "+strings.Join(o.domains(), ", ")+" } action \"box\"\n", err)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Users of OpenSMTPD; only the tree knows their numbers.
const (
	opensmtpd = 64104
	opensmtpq = 64105
)

// installOpenSMTPD does what installing the package does, with a configuration, if there is no
// error in it.
func (f *far) installOpenSMTPD(conf string, err error) ([]string, error) {
	t := f.tree
	return []string{"/usr/sbin/smtpd", "-d"}, errors.Join(
		err,
		t.user("opensmtpd", opensmtpd), t.user("opensmtpq", opensmtpq),
		t.directory("/var/lib/opensmtpd/empty", 0, 0, 0o755),
		t.directory("/var/spool/smtpd", 0, 0, 0o711),
		t.directory("/run/opensmtpd", 0, 0, 0o755),
		t.write("/etc/mailname", Hostname+"\n"),
		t.write("/etc/smtpd.conf", conf),
		os.Chmod(t.path("/etc/smtpd.conf"), 0o600),
		// Its sendmail(1) is a link to smtpctl.
		os.Chown(t.path("/usr/sbin/smtpctl"), 0, opensmtpq),
		os.Chmod(t.path("/usr/sbin/smtpctl"), 0o755|os.ModeSetgid),
		t.certificate(0),
	)
}

// listenOn is the line of a listener.
func listenOn(addr, options string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	return "listen on " + host + " port " + port + " " + options + "\n", err
}

const openSMTPDPKI = `
pki lab cert "` + certFile + `"
pki lab key "` + keyFile + `"
`

// openSMTPDBox is the action that delivers into the mailbox.
const openSMTPDBox = `
table users { "@" = "nobody" }
action "box" maildir "` + boxDir + `" virtual <users>
`
