package sites

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/slots"
)

// key is the beginning of a SHA-256: whoever chooses names cannot meet one that is there.
type key uint64

func keyOf(kind string, source netip.Addr, parts ...string) key {
	var buf [512]byte
	text := begin(buf[:0], kind, source)
	for _, p := range parts {
		text = append(append(text, p...), 0)
	}
	return end(text)
}

func setKey(source netip.Addr, set []address) key {
	var buf [512]byte
	text := begin(buf[:0], "set", source)
	for i := range set {
		text = append(text, set[i].ip[:]...)
	}
	return end(text)
}

func begin(text []byte, kind string, source netip.Addr) []byte {
	text = append(text, kind...)
	if source.IsValid() {
		a := source.As16()
		text = append(text, a[:]...)
	}
	return append(text, 0)
}

func end(text []byte) key {
	sum := sha256.Sum256(text)
	return key(binary.BigEndian.Uint64(sum[:]))
}

// address is one of a set, and when it was last in an answer of the leader.
type address struct {
	ip   [16]byte
	seen uint32
}

func (a *address) addr() netip.Addr { return netip.AddrFrom16(a.ip).Unmap() }

// canonical is the one form of an address of which there are several (slots.Key).
func canonical(a netip.Addr) netip.Addr {
	return slots.Key{Host: netip.AddrPortFrom(a, 0)}.Canonical().Host.Addr()
}

func compare(a address, ip [16]byte) int { return bytes.Compare(a.ip[:], ip[:]) }

// with is the set of a site and an answer together, without what was not seen for a day.
// ok says that it is the site's own, and nothing was made. What is seen is noted if by is.
func (s *site) with(answer []netip.Addr, now uint32, by bool) (set []address, ok bool) {
	ok = true
	for _, a := range answer {
		ip := canonical(a).As16()
		i, found := slices.BinarySearchFunc(s.addrs, ip, compare)
		switch {
		case found && by:
			s.addrs[i].seen = now
		case !found && (len(s.addrs) < mostAddresses || i < mostAddresses):
			ok = false
		}
	}
	if by && ok {
		for i := range s.addrs {
			ok = ok && age(now, s.addrs[i].seen) <= day
		}
	}
	if ok {
		return nil, true
	}
	return union(s.addrs, answer, now), false
}

// union is those of a set that were seen within a day, and an answer.
func union(set []address, answer []netip.Addr, now uint32) []address {
	var buf [2 * mostAddresses]address
	list := buf[:0]
	for _, a := range set {
		if age(now, a.seen) <= day {
			list = append(list, a)
		}
	}
	for _, a := range answer {
		ip := canonical(a).As16()
		if !slices.ContainsFunc(list, func(x address) bool { return x.ip == ip }) {
			list = append(list, address{ip, now})
		}
	}
	slices.SortFunc(list, func(a, b address) int { return compare(a, b.ip) })
	return slices.Clone(list[:min(len(list), mostAddresses)])
}

// seconds is a time as the Book has it.
func seconds(t time.Time) uint32 { return uint32(t.Unix()) }

// age is how long ago a time was; a clock that was put back makes nothing old.
func age(now, then uint32) uint32 {
	if then > now {
		return 0
	}
	return now - then
}
