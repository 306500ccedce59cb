package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// reserve binds a socket to a TCP address and does not listen. As long as the file is
// open, the kernel refuses connects to the port, and chooses it for nobody who wants a
// free one, to listen or to connect from. A listener of net.Listen may have it all the
// same, since both sockets set SO_REUSEADDR (socket(7)).
func reserve(addr string) (f *os.File, bound string, err error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, "", err
	}
	ip := a.AddrPort().Addr().Unmap()
	family, to := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: a.Port, Addr: ip.As16()})
	if ip.Is4() {
		family, to = syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: ip.As4()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("socket: %w", err)
	}
	f = os.NewFile(uintptr(fd), addr)
	if err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err == nil {
		err = syscall.Bind(fd, to)
	}
	if err == nil {
		to, err = syscall.Getsockname(fd)
	}
	if err != nil {
		f.Close()
		return nil, "", fmt.Errorf("bind %s: %w", addr, err)
	}
	switch to := to.(type) {
	case *syscall.SockaddrInet4:
		a.Port = to.Port
	case *syscall.SockaddrInet6:
		a.Port = to.Port
	}
	return f, netip.AddrPortFrom(ip, uint16(a.Port)).String(), nil
}
