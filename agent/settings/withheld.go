package settings

import (
	"errors"
	"syscall"
)

// Withheld is why mail was kept from its relay by a demand of ours that no receiver
// knows of.
type Withheld struct{ Err error }

func (w Withheld) Error() string { return w.Err.Error() }
func (w Withheld) Unwrap() error { return w.Err }

// Ours says whether an error comes of a want of this host, of descriptors, memory or the
// address to send from, or of a demand of our own. It tells nothing of the other side.
func Ours(err error) bool {
	if _, ok := errors.AsType[Withheld](err); ok {
		return true
	}
	for _, want := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}
