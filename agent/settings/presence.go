package settings

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// Presence knows which of our source addresses are on this host: one may come later (IPv6,
// which looks for duplicates first), or be another host's at the moment (VRRP). It outlives
// Settings.
type Presence struct {
	bind func(netip.Addr) error

	mu     sync.Mutex
	absent []netip.Addr
}

// NewPresence returns a Presence of addresses that are all thought to be here.
func NewPresence() *Presence { return &Presence{bind: bind} }

// bind says whether an address can be bound: no packet is sent.
func bind(a netip.Addr) error {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return err
	}
	return c.Close()
}

// Look looks which addresses can be bound, and returns those that have come and that have gone
// since the last look.
func (p *Presence) Look(all []netip.Addr) (come, gone []netip.Addr) {
	var absent []netip.Addr
	for _, a := range all {
		switch err := p.bind(a); {
		case err == nil:
		case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			absent = append(absent, a)
		case !p.Here(a): // another error, as of a want of descriptors, tells nothing
			absent = append(absent, a)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range all {
		switch was, is := slices.Contains(p.absent, a), slices.Contains(absent, a); {
		case was && !is:
			come = append(come, a)
		case is && !was:
			gone = append(gone, a)
		}
	}
	p.absent = absent
	return come, gone
}

// Here says whether an address could be bound at the last look.
func (p *Presence) Here(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.Contains(p.absent, a)
}

// Absent are the addresses that could not be bound at the last look.
func (p *Presence) Absent() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.absent)
}
