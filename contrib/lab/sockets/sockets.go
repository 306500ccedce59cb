// Package sockets has what tests need of sockets beyond package net: [Reserve], a port of
// one's own at which nobody answers until somebody listens there; [Listen], a listener
// whose address is free again as soon as it is closed; and [End], the same for others.
//
// A port that was found free by listening and closing may be another's by the time a
// program comes to listen there. And a closed socket lives on in every process that is just
// being started: a child has all sockets of its parent until its execve closes them
// (O_CLOEXEC in open(2)). While it lives, a client is connected and never answered, the
// address is in use, and the other side sees no end.
package sockets

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reserve binds a socket to a TCP address, with port 0 to a free port, and does not listen.
// As long as the file is open, the kernel refuses connects to the port, and chooses it for
// nobody who wants a free one, to listen or to connect from. Servers that set SO_REUSEADDR,
// as net.Listen and all MTAs do, may listen there all the same (socket(7)).
func Reserve(addr string) (f *os.File, bound string, err error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, "", err
	}
	ip := a.AddrPort().Addr().Unmap()
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: a.Port, Addr: ip.As16()})
	if ip.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: ip.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", os.NewSyscallError("socket", err)
	}
	f = os.NewFile(uintptr(fd), addr)
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, to)
	}
	if err == nil {
		to, err = unix.Getsockname(fd)
	}
	if err != nil {
		f.Close()
		return nil, "", fmt.Errorf("bind %s: %w", addr, err)
	}
	switch to := to.(type) {
	case *unix.SockaddrInet4:
		a.Port = to.Port
	case *unix.SockaddrInet6:
		a.Port = to.Port
	}
	return f, netip.AddrPortFrom(ip, uint16(a.Port)).String(), nil
}

// Listener is a TCP listener that ends when it is closed.
type Listener struct{ *net.TCPListener }

// Listen is net.Listen on a TCP address.
func Listen(addr string) (Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return Listener{}, err
	}
	return Listener{l.(*net.TCPListener)}, nil
}

// Close ends the listener: connections that nobody has accepted are reset, connects are
// refused, and others may listen. The end comes after the close, so that a waiting Accept
// returns net.ErrClosed.
func (l Listener) Close() error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	socket := -1
	// An error is of a listener that was closed before; Close says so.
	_ = raw.Control(func(fd uintptr) { socket, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	err = l.TCPListener.Close()
	if socket >= 0 {
		_ = unix.Shutdown(socket, unix.SHUT_RDWR)
		_ = unix.Close(socket)
	}
	return err
}

// End ends a socket itself, whoever has a descriptor of it (shutdown(2)): of a connection
// both directions, and a listener listens no more. It is still to be closed.
func End(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_RDWR) }); e != nil {
		return e
	}
	return os.NewSyscallError("shutdown", err)
}
