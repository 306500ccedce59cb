package sink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/contrib/lab/sockets"
)

// ignore makes the host's port answer nothing at all.
//
// Linux drops a SYN to a listener whose queue of connections not yet accepted is
// full. A backlog of 0 has room for one; that place is taken by a connection of
// our own, which nobody accepts.
func (h *host) ignore() error {
	at := netip.AddrPortFrom(h.addr, h.provider.internet.Port())
	ln, err := shortListener(at)
	if err != nil {
		return err
	}
	filler, err := fill(at)
	if err != nil {
		ln.Close()
		return err
	}
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	h.listener, h.filler = ln, filler
	return nil
}

// fill takes the place in the queue of a listener. It gives no connection if a
// client was faster, who gets no answer and leaves the place taken when it goes.
func fill(at netip.AddrPort) (net.Conn, error) {
	const patience = time.Second // on loopback; and nothing of the Internet can change meanwhile
	c, err := net.DialTimeout("tcp4", at.String(), patience)
	if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
		return nil, nil
	}
	return c, err
}

// shortListener listens with a backlog of 0, which package net does not offer.
func shortListener(at netip.AddrPort) (net.Listener, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close() // FileListener has one of its own
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
		return nil, fmt.Errorf("%s: %w", at, os.NewSyscallError("bind", err))
	}
	if err := unix.Listen(fd, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", at, os.NewSyscallError("listen", err))
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return sockets.Listener{TCPListener: ln.(*net.TCPListener)}, nil
}
