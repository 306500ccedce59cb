package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// The milter and an admin's commands read the configuration too, under other
// users than the agent's: a secret that they may not read is none of their
// business and no error here. The agent refuses to go on without it.
//
// A secret that others than root and the agent can read is refused (Config.Refused).
// The credentials of a relay are not used then, and the queue's mail waits. A
// client certificate is shown all the same: without it a receiver that asks for it
// would refuse mail for good, and what others have read is not saved by that.

// agentIDs are the user and group of the agent: the owner of the spool, which is the
// agent's alone; where there is none to be seen yet, whoever asks.
func (l *loader) agentIDs() (uid, gid uint32) {
	if info, err := os.Stat(l.cfg.Spool.Directory); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return st.Uid, st.Gid
		}
	}
	return uint32(os.Geteuid()), uint32(os.Getegid())
}

// exposed says who else than root and the agent can read a file, "" if nobody. A
// file that cannot be looked at is of no interest here.
func (l *loader) exposed(file string) string {
	info, err := os.Stat(file)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid, gid := l.agentIDs()
	return readers(info.Mode().Perm(), st.Uid, st.Gid, uid, gid)
}

// readers says who can read a file of a mode, owner and group beside root (0) and the
// agent.
func readers(mode fs.FileMode, uid, gid, agent, agentGroup uint32) string {
	switch {
	case mode&0o004 != 0:
		return "everybody"
	case mode&0o040 != 0 && gid != 0 && gid != agentGroup:
		id := strconv.Itoa(int(gid))
		if g, err := user.LookupGroupId(id); err == nil {
			id = g.Name
		}
		return "group " + id
	case uid != 0 && uid != agent:
		id := strconv.Itoa(int(uid))
		if u, err := user.LookupId(id); err == nil {
			id = u.Username
		}
		return "user " + id
	}
	return ""
}

// refuse notes what is asked for at a place and is not done.
func (l *loader) refuse(path, text string) {
	n := l.place(path)
	n.Text = text
	l.cfg.Refused = append(l.cfg.Refused, n)
}

const ownReaders = "chown root:GROUP and chmod 0640, with the agent's group (millrace)"

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
		} else if who := l.exposed(a.TLSKeyFile); who != "" {
			l.refuse("agent.tls_key_file", remedy(fmt.Sprintf("tls_key_file: %s can read %q, and so pass for this host; the certificate is shown to receivers until you have another",
				who, a.TLSKeyFile), ownReaders+"; then get a new key"))
		}
	}
}

// withoutRelay takes from a queue that has no relay what is for one alone: it stands
// there for the queues that inherit it, and a receiver must not be offered the password.
func (q *Queue) withoutRelay() {
	if q.Route.Kind != RouteRelay {
		q.RelayWrappermode, q.RelayAuthFile, q.RelayAuth, q.RelayAuthRefused = false, "", nil, ""
	}
}

// checkRelay looks at the keys that are for a relay only, and reads the
// credentials.
func (l *loader) checkRelay(q *Queue, path string) {
	for _, key := range []string{"relay_wrappermode", "relay_auth_file", "relay_auth_tls"} {
		// In [general] they may stand for the queues that inherit them.
		if at := path + "." + key; l.given(at) && q.Route.Kind != RouteRelay && path != generalName {
			l.fail(at, remedy(key+" is for a relay, and this queue has none", `add route = "relay:host:port", or remove it`))
		}
	}
	if at := path + ".relay_auth_tls"; l.given(at) && q.RelayAuthTLS != TLSVerify && q.RelayAuthTLS != TLSRequired {
		l.fail(at, remedy(fmt.Sprintf("relay_auth_tls: %q would show the password to others", q.RelayAuthTLS), `write "verify", or "required" for any certificate`))
	}
	q.RelayAuth, q.RelayAuthRefused = nil, ""
	file := q.RelayAuthFile
	if file == "" {
		return
	}
	wrong := func(text, todo string) {
		l.fail(path+".relay_auth_file", remedy(fmt.Sprintf("relay_auth_file: %q %s", file, text), todo))
	}
	if path != generalName && !l.given(path+".relay_auth_file") {
		q.RelayAuth, q.RelayAuthRefused = l.cfg.General.RelayAuth, l.cfg.General.RelayAuthRefused // read, and complained of, already
		return
	}
	line, refused, ok := l.secretFile(path+".relay_auth_file", file, "the password is not used, and the mail waits")
	if q.RelayAuthRefused = refused; !ok {
		return
	}
	user, password, ok := strings.Cut(line, ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(line, "\r\n\x00") {
		wrong("is not one line \"user:password\"", "write the user, a colon and the password, nothing else")
		return
	}
	q.RelayAuth = &Auth{User: user, Password: password}
}

// secretFile reads the file that the key at path names, for what is a secret, without the end
// of its last line. Where that is not done ok is false, and the admin is told, unless this
// user may not read it. refused says who else can read it; then told is what follows.
func (l *loader) secretFile(path, file, told string) (text, refused string, ok bool) {
	key := path[strings.LastIndexByte(path, '.')+1:]
	wrong := func(text, todo string) {
		l.fail(path, remedy(fmt.Sprintf("%s: %q %s", key, file, text), todo))
	}
	info, err := os.Stat(file)
	switch {
	case !filepath.IsAbs(file):
		wrong("is not an absolute path", "begin it with /")
		return "", "", false
	case errors.Is(err, fs.ErrPermission):
		return "", "", false
	case err != nil:
		wrong("cannot be read: "+cause(err), "create it, or correct its name")
		return "", "", false
	case info.Mode().Perm()&0o027 != 0:
		wrong(fmt.Sprintf("has mode %04o: others could read or change the password", info.Mode().Perm()), "chmod 0600, or 0640 for the agent's group")
		return "", "", false
	}
	if who := l.exposed(file); who != "" {
		refused = fmt.Sprintf("%s: %s can read %q", key, who, file)
		l.refuse(path, remedy(refused+"; "+told, ownReaders))
		return "", refused, false
	}
	b, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", "", false
	case err != nil:
		wrong("cannot be read: "+cause(err), "let the agent's user read it")
		return "", "", false
	}
	return strings.TrimRight(string(b), "\r\n"), "", true
}
