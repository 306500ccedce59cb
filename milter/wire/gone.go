package wire

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// errGone ends a connection whose MTA did not wait for its verdict.
var errGone = errors.New("the MTA closed the connection before the verdict")

// gone reports whether the peer has closed its end. A write does not tell: over
// TCP it succeeds, and is answered with a reset when it is too late. No MTA
// closes one half of a connection and reads on from the other.
func gone(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	closed := false
	err = raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = n == 0 && err == nil || errors.Is(err, unix.ECONNRESET)
	})
	return closed || err != nil
}
