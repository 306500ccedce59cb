package postconf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/millrace/millrace/agent/config"
)

// This file is about who comes to the place where mail goes back to the host: the
// agent has to, and nobody else may take it.

// Shut says why the socket of a relay cannot be reached by a user, and the remedy. err
// is what the system says to a connect there, or to a look at it.
func Shut(path, name string, err error) Finding {
	f := Finding{Severity: Contradiction, Where: "[handback] relay unix:" + path}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Wrong = fmt.Sprintf("user %s may not connect to it, so bounces and mail that Millrace hands back wait", name)
		f.Remedy = fmt.Sprintf("usermod -aG %s %s, then restart millrace-agent", groupOf(filepath.Dir(path)), name)
	case errors.Is(err, fs.ErrNotExist):
		f.Wrong = "there is no such socket: master.cf has no such service, or Postfix was not started or reloaded since it has"
		f.Remedy = "run millrace setup, then postfix reload"
	default:
		f.Wrong = err.Error()
		f.Remedy = "name the socket of an smtpd service in master.cf, as millrace setup does"
	}
	return f
}

// groupOf names the group of a directory; public/ is of setgid_group.
func groupOf(dir string) string {
	info, err := os.Stat(dir)
	if err != nil {
		return "postdrop"
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "postdrop"
	}
	id := strconv.FormatUint(uint64(st.Gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return g.Name
	}
	return id
}

// ErrNotAsked says that only root can look whether another user reaches something.
var ErrNotAsked = errors.New("whether the agent's user reaches the socket of [handback] relay was not looked at: only root can")

// Reach looks whether the agent's user, to whom the spool belongs, reaches the socket of
// [handback] relay; before that is made, its directory. It also looks whether others can
// put one there. A relay that is a port has no findings; where no agent has been only
// the directories are looked at.
func Reach(ctx context.Context, c *config.Config) ([]Finding, error) {
	path := config.RelaySocket(c.Handback.Relay)
	if path == "" {
		return nil, nil
	}
	found := takeable(path)
	u, err := agentUser(c)
	if u == nil || err != nil {
		return found, err
	}
	own := strconv.Itoa(os.Geteuid()) == u.Uid
	if !own && os.Geteuid() != 0 {
		return found, ErrNotAsked
	}
	flag := "-w"
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Postfix makes it when it reads master.cf.
		f := Shut(path, u.Username, err)
		f.Severity = Warning
		found, flag, path = append(found, f), "-x", filepath.Dir(path)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return found, nil
		}
	}
	may, err := test(ctx, u, flag, path)
	if err == nil && !may {
		f := Shut(config.RelaySocket(c.Handback.Relay), u.Username, fs.ErrPermission)
		f.Severity = inDivert(c)
		found = append(found, f)
	}
	return found, err
}

// test is test(1) by the rights of a user, which root and the user can ask for.
func test(ctx context.Context, u *user.User, flag, path string) (bool, error) {
	cmd := exec.CommandContext(ctx, "test", flag, path)
	if strconv.Itoa(os.Geteuid()) != u.Uid {
		var err error
		if cmd.SysProcAttr, err = as(u); err != nil {
			return false, err
		}
	}
	err := cmd.Run()
	if no, ok := errors.AsType[*exec.ExitError](err); ok && no.ExitCode() == 1 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("test %s %s as user %s: %w", flag, path, u.Username, err)
	}
	return true, nil
}

// Keeps looks whether the agent's user may write to state_directory, or make it. Where no
// agent has been, or who asks may not look, there are no findings.
func Keeps(ctx context.Context, c *config.Config) ([]Finding, error) {
	dir := c.Agent.StateDirectory
	u, err := agentUser(c)
	if dir == "" || u == nil || err != nil || strconv.Itoa(os.Geteuid()) != u.Uid && os.Geteuid() != 0 {
		return nil, err
	}
	f := Finding{Severity: Contradiction, Where: "[agent] state_directory " + dir}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) { // the agent makes it when it starts, if it may
		if may, err := test(ctx, u, "-w", above(dir)); may || err != nil {
			return nil, err
		}
	}
	if err != nil || !info.IsDir() {
		f.Wrong = "there is no such directory, so pauses, the suppression list and what is learned of receivers are lost with each restart"
		f.Remedy = fmt.Sprintf("install -d -m 750 -o %s -g %s %s", u.Username, groupOf(c.Spool.Directory), dir)
		if err == nil {
			f.Remedy = fmt.Sprintf("mv %s %s.old; %s", dir, dir, f.Remedy)
		}
		return []Finding{f}, nil
	}
	if may, err := test(ctx, u, "-w", dir); may || err != nil {
		return nil, err
	}
	f.Wrong = fmt.Sprintf("user %s may not write to it, so pauses, the suppression list and what is learned of receivers are lost with each restart", u.Username)
	f.Remedy = fmt.Sprintf("chown %s %s", u.Username, dir)
	return []Finding{f}, nil
}

// above is the nearest directory above a path that is there.
func above(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

// takeable says which directories of a socket others than their owner may write. A
// sticky one above the last keeps them from what is not theirs (inode(7)); in the last
// they could make a socket while there is none.
func takeable(path string) (found []Finding) {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		kept := err == nil && dir != filepath.Dir(path) && info.Mode()&fs.ModeSticky != 0
		if err == nil && info.Mode().Perm()&0o022 != 0 && !kept {
			found = append(found, Finding{
				Where:  "[handback] relay unix:" + path,
				Wrong:  fmt.Sprintf("others than its owner may write %s, and take bounces and mail that Millrace hands back while the host's MTA is down", dir),
				Remedy: "chmod go-w " + dir,
			})
		}
		if dir == filepath.Dir(dir) {
			return found
		}
	}
}

// agentUser is the owner of the spool; nil if there is no spool yet.
func agentUser(c *config.Config) (*user.User, error) {
	info, err := os.Stat(c.Spool.Directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, nil
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10))
	if _, ok := errors.AsType[user.UnknownUserIdError](err); ok {
		return nil, nil // a spool that came from elsewhere
	}
	return u, err
}

// as has a program run with the rights that a user has when he begins anew.
func as(u *user.User) (*syscall.SysProcAttr, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, uint32(n))
	}
	return &syscall.SysProcAttr{Credential: c}, nil
}

// Exposed says of a relay on loopback that any user of this host can take its place
// while the MTA is down; "" if he cannot. A port below ip_unprivileged_port_start is
// root's (ip(7)); as is whatever is on another host's.
func Exposed(relay string, files fs.FS) string {
	host, service, err := net.SplitHostPort(relay)
	if err != nil || !isLocalhost(host) {
		return ""
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return ""
	}
	first := uint64(1024)
	if text, err := fs.ReadFile(files, "proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 17); err == nil {
			first = n
		}
	}
	if port < first {
		return ""
	}
	return fmt.Sprintf("while the host's MTA is down any local user can listen at [handback] relay %s, and take bounces and mail that Millrace hands back", relay)
}

// Elsewhere is what there is to say of the hand-back port and of the inlet on a host without
// Postfix.
func Elsewhere(c *config.Config) []Finding {
	found := InletWithoutPostfix(c)
	if wrong := Exposed(c.Handback.Relay, os.DirFS("/")); wrong != "" {
		found = append(found, Finding{Where: "millrace.toml", Wrong: wrong, Remedy: "give the MTA and relay a port below 1024, which only root can take"})
	}
	return found
}
