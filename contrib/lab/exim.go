package lab

import (
	"context"
	"errors"
	"os"
	"strings"
)

// StartExim starts Debian's Exim as a receiver.
func StartExim(ctx context.Context, o ReceiverOptions) (Receiver, error) {
	f, err := startFar(ctx, "exim4", o.Addr, "", func(f *far) ([]string, error) {
		return f.installExim(eximConf(o.domains(), f.smtp) + eximReceiver)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// debianExim is the user Exim runs as; only the tree knows its number.
const debianExim = 64103

// installExim does what installing the package does, with a configuration.
func (f *far) installExim(conf string) ([]string, error) {
	t := f.tree
	f.log = t.path("/var/log/exim4/mainlog")
	return []string{"/usr/sbin/exim4", "-bdf", "-q1m"}, errors.Join(
		t.user("Debian-exim", debianExim),
		t.directory("/var/spool/exim4", debianExim, debianExim, 0o750),
		t.directory("/var/log/exim4", debianExim, debianExim, 0o755),
		t.write("/etc/exim4/exim4.conf", conf),
		os.Chown(t.path("/etc/exim4/exim4.conf"), 0, debianExim),
		t.certificate(debianExim),
	)
}

// eximConf is the main part of a configuration, for mail to its own domains at addresses. It
// has what Debian's has of extensions, and DSN.
func eximConf(domains []string, addresses ...string) string {
	var interfaces []string
	for _, a := range addresses {
		interfaces = append(interfaces, strings.Replace(a, ":", ".", 1)) // as local_interfaces has ports
	}
	return "primary_hostname = " + Hostname + "\ndomainlist local_domains = " + strings.Join(domains, " : ") +
		"\nlocal_interfaces = " + strings.Join(interfaces, " : ") + eximMain
}

const eximMain = `
tls_advertise_hosts = *
tls_certificate = ` + certFile + `
tls_privatekey = ` + keyFile + `
dsn_advertise_hosts = *
acl_smtp_rcpt = acl_rcpt
rfc1413_hosts = :
smtp_accept_queue_per_connection = 0
keep_environment =
log_selector = +smtp_protocol_error +smtp_syntax_error
log_file_path = /var/log/exim4/%slog
`

const eximReceiver = `
begin acl
acl_rcpt:
  accept domains = +local_domains
  deny message = relay not permitted

begin routers
local:
  driver = accept
  transport = box

begin transports
` + eximBox

// eximBox is the transport into the mailbox.
const eximBox = `
box:
  driver = appendfile
  directory = ` + boxDir + `
  maildir_format
  user = nobody
  mode = 0644
  message_prefix = "Return-Path: <$return_path>\nDelivered-To: $local_part@$domain\n"
`
