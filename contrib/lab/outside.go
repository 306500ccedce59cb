package lab

import (
	"errors"
	"net/netip"
	"syscall"
)

// Outside gives the room an address that is not a loopback one, so that a client
// in it can come from elsewhere: what binds to it is a stranger to everything
// that trusts 127.0.0.0/8. It is of the block for documentation (RFC 5737) and,
// being on the loopback interface, ends there. Calling it again changes nothing.
func Outside() (netip.Addr, error) {
	stranger := netip.AddrFrom4([4]byte{192, 0, 2, 7})
	if _, err := AddAddress(stranger); err != nil && !errors.Is(err, syscall.EEXIST) {
		return stranger, err
	}
	return stranger, nil
}
