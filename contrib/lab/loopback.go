package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// AddAddress gives the loopback interface of an isolated program another address, as a host
// gets one by VRRP; all of 127.0.0.0/8 can be bound from the start, but is not seen on the
// interface. It is that address alone, without its network: the rest of which nobody can bind.
// The error is EEXIST if it has the address already. remove takes it away again.
func AddAddress(a netip.Addr) (remove func() error, err error) {
	if !Isolated() {
		return nil, errors.New("add address: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	if err := changeAddress(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a); err != nil {
		return nil, fmt.Errorf("add address %s: %w", a, err)
	}
	return func() error { return changeAddress(unix.RTM_DELADDR, 0, a) }, nil
}

// changeAddress asks the kernel by rtnetlink(7). Nobody looks for duplicates of an IPv6 address,
// so it can be bound at once.
func changeAddress(kind, flags uint16, a netip.Addr) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	family := byte(unix.AF_INET6)
	if a.Is4() {
		family = unix.AF_INET
	}
	octets := a.AsSlice()
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr, 128)
	const loopback = 1 // the first interface of each namespace
	b = append(b, family, byte(8*len(octets)), unix.IFA_F_NODAD, 0)
	b = ne.AppendUint32(b, loopback)
	for _, attribute := range [...]uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+len(octets)))
		b = append(ne.AppendUint16(b, attribute), octets...)
	}
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], kind)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n < unix.SizeofNlMsghdr+4 || ne.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("rtnetlink gave no answer")
	}
	if code := int32(ne.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}
