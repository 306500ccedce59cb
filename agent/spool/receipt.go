package spool

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// Receipt stands for a durable message whose verdict is not yet known. One call
// settles it.
type Receipt struct{ r *receipt }

type receipt struct {
	out     *output
	id      ID
	index   uint32
	settled atomic.Bool
}

// ID returns the id of the message.
func (r Receipt) ID() ID { return r.r.id }

// Release hands the message to the agent: the verdict that makes the host MTA
// forget it was written. It costs one small write and no sync: if power fails
// before the kernel stores it, the message is an orphan, sent all the same.
func (r Receipt) Release() error { return r.r.settle(released) }

// Void says that the host MTA kept the message: the agent never takes it. If
// power fails before the kernel stores that, the message may go out twice.
func (r Receipt) Void() error { return r.r.settle(void) }

var errSettled = errors.New("spool: receipt was settled before")

// settle writes the verdict octet. Once it failed, the message becomes an
// orphan when the segment is closed.
func (r *receipt) settle(verdict byte) error {
	if !r.settled.CompareAndSwap(false, true) {
		return errSettled
	}
	o := r.out
	o.mu.RLock()
	err := ErrClosed
	if o.file != nil {
		_, err = o.file.WriteAt([]byte{verdict}, verdictsAt+int64(r.index))
	}
	o.mu.RUnlock()

	o.mu.Lock()
	o.open--
	o.release()
	o.mu.Unlock()
	if err != nil {
		return fmt.Errorf("spool: verdict of %s: %w", r.id, err)
	}
	return nil
}
