package wire

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// errGone ends a connection whose MTA does not wait for its verdict.
var errGone = errors.New("the MTA did not wait for the verdict")

// gone reports whether the peer has closed its end, or has said something while
// it should wait for a verdict. A write does not tell: over TCP it succeeds, and
// is answered with a reset when it is too late. No MTA closes one half of a
// connection and reads on from the other. One that speaks has given the message
// up: when the cleanup(8) that waited has died, Postfix's smtpd(8) takes its leave
// of the milter on the same connection.
func gone(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	waits := false
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		waits = errors.Is(err, unix.EAGAIN)
	})
	return !waits || err != nil
}
