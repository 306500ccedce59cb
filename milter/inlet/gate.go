package inlet

import (
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// admit lets in whom the configuration allows, and not too many; for others it says with
// which reply they are turned away. 4xx makes them come again.
//
// At most half of the connections are for one user of a Unix socket. The kernel does not say
// whose a TCP connection is, so no such bound would be of one user there; Postfix has none
// for loopback either (smtpd_client_event_limit_exceptions).
func (s *Server) admit(c *conn) (refusal reply) {
	switch nc := c.Conn.(type) {
	case *net.UnixConn:
		uid, err := peer(nc)
		if err != nil {
			return "421 4.3.0 who you are cannot be found out"
		}
		if !s.cfg.Anybody && !slices.Contains(s.cfg.UIDs, uid) {
			return reply(fmt.Sprintf("554 5.7.1 user %d may not send here: [inlet] allow does not name it", uid))
		}
		c.user = s.users.name(uid)
		c.who = "uid " + strconv.FormatUint(uint64(uid), 10)
	case *net.TCPConn:
		from, to := addr(nc.RemoteAddr()), addr(nc.LocalAddr())
		if !from.IsLoopback() || !to.IsLoopback() {
			return "554 5.7.1 this is for programs of this host"
		}
		c.client = from
	default:
		return "421 4.3.0 unknown kind of socket"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions >= s.cfg.MaxConnections || c.who != "" && s.byUser[c.who] >= (s.cfg.MaxConnections+1)/2 {
		return "421 4.7.0 too many connections"
	}
	s.sessions++
	if c.who != "" {
		s.byUser[c.who]++
	}
	return ""
}

// turnAway says why, and closes. The buffer of a new socket takes a line, so nobody is
// waited for.
func (s *Server) turnAway(c *conn, why reply) {
	s.turned.Add(1)
	s.warn("turned", "client of the inlet turned away", "why", string(why), "from", c.RemoteAddr().String())
	c.SetWriteDeadline(time.Now().Add(time.Second))
	c.Write([]byte(why + "\r\n"))
	c.Close()
}

// left forgets a client.
func (s *Server) left(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions--
	if c.who == "" {
		return
	}
	if s.byUser[c.who]--; s.byUser[c.who] == 0 {
		delete(s.byUser, c.who)
	}
}

// from is the address that a client counts as: a Unix socket is of this host.
func (c *conn) from() netip.Addr {
	if c.client.IsValid() {
		return c.client
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func addr(a net.Addr) netip.Addr {
	if a, ok := a.(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// peer is the user who has connected (SO_PEERCRED, unix(7)).
func peer(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	return cred.Uid, nil
}

// users remembers the names of users, which are in a file.
type users struct {
	mu    sync.Mutex
	names map[uint32]string
}

func (u *users) name(uid uint32) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n, ok := u.names[uid]; ok {
		return n
	}
	id := strconv.FormatUint(uint64(uid), 10)
	name := id
	if found, err := user.LookupId(id); err == nil {
		name = found.Username
	}
	if u.names == nil || len(u.names) > 1000 {
		u.names = map[uint32]string{}
	}
	u.names[uid] = name
	return name
}
