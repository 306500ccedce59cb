package sink

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// portClaim keeps a TCP port for receivers on many loopback addresses.
//
// A socket is bound to the port on all addresses, but does not listen. With
// SO_REUSEADDR on both sides (which net.Listen sets) others may listen on the
// port at an address of their own, while the kernel no longer gives it to
// anybody who asks for any free port, nor to an outgoing connection.
type portClaim struct {
	fd   int // -1: a port that was given, not claimed
	port uint16
}

func claimPort(port uint16) (*portClaim, error) {
	if port != 0 {
		return &portClaim{-1, port}, nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sink: claim a port: %w", os.NewSyscallError("socket", err))
	}
	c := &portClaim{fd: fd}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		c.release()
		return nil, fmt.Errorf("sink: claim a port: %w", os.NewSyscallError("setsockopt", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{}); err != nil {
		c.release()
		return nil, fmt.Errorf("sink: claim a port: %w", os.NewSyscallError("bind", err))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		c.release()
		return nil, fmt.Errorf("sink: claim a port: %w", os.NewSyscallError("getsockname", err))
	}
	c.port = uint16(name.(*unix.SockaddrInet4).Port)
	return c, nil
}

func (c *portClaim) release() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}
