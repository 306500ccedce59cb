package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
)

// StartExim starts Debian's Exim as a receiver.
func StartExim(ctx context.Context, o ReceiverOptions) (Receiver, error) {
	return startFar(ctx, "exim4", o, installExim)
}

// debianExim is the user Exim runs as; only the tree knows its number.
const debianExim = 64103

func installExim(f *far, o ReceiverOptions) ([]string, error) {
	t := f.tree
	listen, port, err := net.SplitHostPort(f.smtp)
	if err != nil {
		return nil, err
	}
	conf := strings.NewReplacer("LISTEN", listen, "PORT", port, "DOMAINS", strings.Join(o.domains(), " : "), "HOSTNAME", Hostname).Replace(eximConf)
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

// eximConf has what Debian's has of extensions, and DSN.
const eximConf = `
primary_hostname = HOSTNAME
domainlist local_domains = DOMAINS
local_interfaces = LISTEN
daemon_smtp_ports = PORT
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

begin acl
acl_rcpt:
  accept domains = +local_domains
  deny message = relay not permitted

begin routers
local:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = ` + boxDir + `
  maildir_format
  user = nobody
  mode = 0644
  message_prefix = "Return-Path: <$return_path>\nDelivered-To: $local_part@$domain\n"
`
