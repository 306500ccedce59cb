// Package transient keeps long-lived loops going over errors of the system that
// may pass: somebody else has used up descriptors or memory, a disk has missed a read.
//
// A loop has one Retry. It calls Wait with each error before it tries again, and
// Over when a try has succeeded.
package transient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// shortages are the errors of accept(2), open(2), socket(2) and read(2) that tell of
// resources which others, of this process or of the host, have taken.
var shortages = [...]error{
	syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EAGAIN, syscall.EINTR, syscall.ECONNABORTED,
}

// Shortage reports whether an error is for want of descriptors, memory or the like:
// nothing is broken, and the same call succeeds when others have given back.
func Shortage(err error) bool {
	return slices.ContainsFunc(shortages[:], func(e error) bool { return errors.Is(err, e) })
}

const (
	first = 10 * time.Millisecond
	most  = time.Second
	// Patience is how long an error that is no shortage, EIO for one, is borne.
	Patience = 10 * time.Second
)

// Retry is the state of one loop. The zero value is a loop without trouble.
type Retry struct {
	row   int
	since time.Time
}

// Wait waits before the next try: 10 ms after the first error, twice as long after each
// more in a row, at most a second. news is true for the first one, which is the one to
// log. The error is that of ctx, or err itself if it is no shortage and has lasted for
// Patience: then the loop should end.
func (r *Retry) Wait(ctx context.Context, err error) (news bool, _ error) {
	if r.row == 0 {
		r.since = time.Now()
	} else if !Shortage(err) && time.Since(r.since) >= Patience {
		return false, fmt.Errorf("for %s: %w", time.Since(r.since).Round(time.Second), err)
	}
	r.row++
	t := time.NewTimer(min(first<<min(r.row-1, 10), most))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-t.C:
		return r.row == 1, nil
	}
}

// Over ends a row of errors and tells how long it lasted; was is false if there was none.
func (r *Retry) Over() (lasted time.Duration, was bool) {
	if r.row == 0 {
		return 0, false
	}
	lasted = time.Since(r.since)
	*r = Retry{}
	return lasted, true
}
