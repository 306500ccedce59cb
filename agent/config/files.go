package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The milter and an admin's commands read the configuration too, under other
// users than the agent's: a secret that they may not read is none of their
// business and no error here. The agent refuses to go on without it.

// checkTLSFiles looks at whether certificates and keys can be used. The agent
// reads them again when it takes the configuration.
func (l *loader) checkTLSFiles(a *Agent) {
	if a.TLSCAFile != "" {
		text, err := os.ReadFile(a.TLSCAFile)
		if err != nil {
			l.fail("agent.tls_ca_file", remedy(fmt.Sprintf("tls_ca_file: %q cannot be read: %s", a.TLSCAFile, cause(err)), "let the agent's user read it, or correct its name"))
		} else if !x509.NewCertPool().AppendCertsFromPEM(text) {
			l.fail("agent.tls_ca_file", remedy(fmt.Sprintf("tls_ca_file: %q has no certificate", a.TLSCAFile), "put the authorities' certificates there in PEM"))
		}
	}
	switch {
	case a.TLSCertFile == "" && a.TLSKeyFile == "":
	case a.TLSKeyFile == "":
		l.fail("agent.tls_cert_file", remedy("tls_cert_file: a certificate without its key", "name the key in tls_key_file"))
	case a.TLSCertFile == "":
		l.fail("agent.tls_key_file", remedy("tls_key_file: a key without its certificate", "name the certificate in tls_cert_file"))
	default:
		if _, err := tls.LoadX509KeyPair(a.TLSCertFile, a.TLSKeyFile); err != nil && !errors.Is(err, fs.ErrPermission) {
			l.fail("agent.tls_cert_file", remedy(fmt.Sprintf("tls_cert_file: certificate and key cannot be used: %v", err), "give two PEM files that belong together, readable by the agent's user"))
		}
	}
}

// checkRelay looks at the keys that are for a relay only, and reads the
// credentials.
func (l *loader) checkRelay(q *Queue, path string) {
	for _, key := range []string{"relay_wrappermode", "relay_auth_file"} {
		// In [general] they may stand for the queues that inherit them.
		if at := path + "." + key; l.given(at) && q.Route.Kind != RouteRelay && path != generalName {
			l.fail(at, remedy(key+" is for a relay, and this queue has none", `add route = "relay:host:port", or remove it`))
		}
	}
	q.RelayAuth = nil
	file := q.RelayAuthFile
	if file == "" {
		return
	}
	wrong := func(text, todo string) {
		l.fail(path+".relay_auth_file", remedy(fmt.Sprintf("relay_auth_file: %q %s", file, text), todo))
	}
	if path != generalName && !l.given(path+".relay_auth_file") {
		q.RelayAuth = l.cfg.General.RelayAuth // read, and complained of, already
		return
	}
	info, err := os.Stat(file)
	switch {
	case !filepath.IsAbs(file):
		wrong("is not an absolute path", "begin it with /")
		return
	case errors.Is(err, fs.ErrPermission):
		return
	case err != nil:
		wrong("cannot be read: "+cause(err), "create it, or correct its name")
		return
	case info.Mode().Perm()&0o027 != 0:
		wrong(fmt.Sprintf("has mode %04o: others could read or change the password", info.Mode().Perm()), "chmod 0600, or 0640 for the agent's group")
		return
	}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return
	case err != nil:
		wrong("cannot be read: "+cause(err), "let the agent's user read it")
		return
	}
	line := strings.TrimRight(string(text), "\r\n")
	user, password, ok := strings.Cut(line, ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(line, "\r\n\x00") {
		wrong("is not one line \"user:password\"", "write the user, a colon and the password, nothing else")
		return
	}
	q.RelayAuth = &Auth{User: user, Password: password}
}
