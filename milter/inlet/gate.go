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

// gate is a listener that lets in whom the configuration allows, and not too many.
type gate struct {
	net.Listener
	server *Server
}

// Accept returns the next client. Others are told why not, and closed: they may wait for a
// greeting, and 4xx makes them come again.
func (g gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		f, refusal := g.server.admit(c)
		if refusal == "" {
			return f, nil
		}
		g.server.turned.Add(1)
		g.server.warn("turned", "client of the inlet turned away", "why", refusal, "from", c.RemoteAddr().String())
		// The buffer of a new socket takes a line; nobody is waited for.
		c.SetWriteDeadline(time.Now().Add(time.Second))
		c.Write([]byte(refusal + "\r\n"))
		c.Close()
	}
}

// admit makes the front of a client, or says with which reply it is turned away.
func (s *Server) admit(c net.Conn) (*front, string) {
	f := &front{Conn: c, server: s}
	who := ""
	switch c := c.(type) {
	case *net.UnixConn:
		uid, err := peer(c)
		if err != nil {
			return nil, "421 4.3.0 who you are cannot be found out"
		}
		if !s.cfg.Anybody && !slices.Contains(s.cfg.UIDs, uid) {
			return nil, fmt.Sprintf("554 5.7.1 user %d may not send here: [inlet] allow does not name it", uid)
		}
		f.user = s.users.name(uid)
		who = "uid " + strconv.FormatUint(uint64(uid), 10)
	case *net.TCPConn:
		from, to := addr(c.RemoteAddr()), addr(c.LocalAddr())
		if !from.IsLoopback() || !to.IsLoopback() {
			return nil, "554 5.7.1 this is for programs of this host"
		}
		f.client = from
		who = from.String()
	default:
		return nil, "421 4.3.0 unknown kind of socket"
	}
	f.who = who
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping.Load():
		return nil, s.closing()
	case len(s.fronts) >= s.cfg.MaxConnections || s.byUser[who] >= (s.cfg.MaxConnections+1)/2:
		return nil, "421 4.7.0 too many connections"
	}
	s.fronts[f] = struct{}{}
	s.byUser[who]++
	f.begin()
	return f, ""
}

// left forgets a client.
func (s *Server) left(f *front) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.fronts[f]; ok {
		delete(s.fronts, f)
		if s.byUser[f.who]--; s.byUser[f.who] <= 0 {
			delete(s.byUser, f.who)
		}
	}
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
