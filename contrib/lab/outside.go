package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Outside gives the room an address that is not a loopback one, so that a client
// in it can come from elsewhere: what binds to it is a stranger to everything
// that trusts 127.0.0.0/8. It is of the block for documentation (RFC 5737) and,
// being on the loopback interface, ends there. Calling it again changes nothing.
func Outside() (netip.Addr, error) {
	stranger := netip.AddrFrom4([4]byte{192, 0, 2, 7})
	if !Isolated() {
		return stranger, errors.New("outside: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	return stranger, Alias("outside", stranger)
}

// Alias gives the loopback interface an IPv4 address beside 127.0.0.1, where a program
// looks for it on an interface. The label is at most 12 octets, one for each address.
func Alias(label string, addr netip.Addr) error {
	if !Isolated() {
		return errors.New("alias: the program is not isolated: call lab.Isolate or lab.Main first")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("alias %s: %w", label, err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo:" + label)
	if err == nil {
		err = ifr.SetInet4Addr(addr.AsSlice())
	}
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
	}
	if err != nil {
		return fmt.Errorf("alias %s: %w", label, err)
	}
	return nil
}
