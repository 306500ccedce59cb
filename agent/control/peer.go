package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of the socket, as the kernel knows it since
// it connected (unix(7), SO_PEERCRED and SO_PEERGROUPS): nothing that it says itself.
type Peer struct {
	PID      int32
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// String is how logs and listings name a peer: "ann (uid 1000)".
func (p Peer) String() string {
	name := "unknown"
	if u, err := user.LookupId(strconv.Itoa(int(p.UID))); err == nil {
		name = u.Username
	}
	return fmt.Sprintf("%s (uid %d)", name, p.UID)
}

type peerKey struct{}

// PeerOf is who made the request that a Backend's method serves.
func PeerOf(ctx context.Context) Peer {
	p, _ := ctx.Value(peerKey{}).(Peer)
	return p
}

// withPeer notes who has connected. One whom the kernel does not tell is nobody.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p, err := peerOf(c)
	if err != nil {
		const nobody = 1<<32 - 1 // an id that no process can have
		p = Peer{UID: nobody, GID: nobody}
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func peerOf(c net.Conn) (p Peer, err error) {
	conn, ok := c.(syscall.Conn)
	if !ok {
		return p, fmt.Errorf("%T is no socket", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	outer := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p = Peer{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
		p.Groups, err = peerGroups(fd)
	})
	if outer != nil {
		err = outer
	}
	return p, err
}

// peerGroups asks for the supplementary groups; x/sys has no call for it. The kernel
// says how much room it wants if there is not enough.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno != unix.ERANGE || int(size/4) <= len(groups):
			return nil, errno
		}
		groups = make([]uint32, size/4)
	}
}

// access lets in whom the socket is for.
type access struct{ uid, gid uint32 }

// accessOf is the door of a socket file: for its owner, who is the agent's user, and its group.
func accessOf(path string) (access, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return access{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return access{uid: st.Uid, gid: st.Gid}, nil
}

// admits reports whether a peer is root, the socket's owner or of its group. The
// file's mode says so too; but modes get changed, and directories opened.
func (d access) admits(p Peer) bool {
	return p.UID == 0 || p.UID == d.uid || p.GID == d.gid || slices.Contains(p.Groups, d.gid)
}

// guard refuses strangers before anything they sent is looked at.
func (d access) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := PeerOf(r.Context())
		if !d.admits(p) {
			group := strconv.Itoa(int(d.gid))
			if g, err := user.LookupGroupId(group); err == nil {
				group = g.Name
			}
			http.Error(w, fmt.Sprintf("%s may not do this; remedy: become root, or a member of the group %s", p, group), http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
