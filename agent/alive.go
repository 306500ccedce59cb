package agent

import (
	"context"
	"fmt"
	"time"
)

// What must come round for mail to move: the queue's agenda, and the follower of the
// spool. A process whose ticker still runs while one of them stands still is not alive.

const (
	// stillAfter is how long the follower may do nothing. It looks at the directory every
	// five seconds.
	stillAfter = 20 * time.Second
	// unseenAfter is how long new mail may go unseen until the milter is to leave it
	// with the host.
	unseenAfter = 30 * time.Second
)

// Probe implements program.Prober.
func (a *Agent) Probe(ctx context.Context) error {
	if err := a.queue.Pulse(ctx); err != nil {
		return fmt.Errorf("the queue stands still: %w", err)
	}
	if turned, _ := a.store.Progress(); turned > stillAfter {
		return fmt.Errorf("the spool has not been looked at for %s", turned.Round(time.Second))
	}
	return nil
}

// unseen is the trouble that new mail is not seen, or nil. While a stop lets transactions
// finish nothing is looked for, and the next agent will.
func (a *Agent) unseen() error {
	if _, looked := a.store.Progress(); looked > unseenAfter && a.opening.Err() == nil {
		return fmt.Errorf("new mail in the spool has not been seen for %s", looked.Round(time.Second))
	}
	return nil
}

// beat tells the milter that we live. Who does not see new mail does not, as far as the
// milter is concerned.
func (a *Agent) beat() error {
	if err := a.unseen(); err != nil {
		return err
	}
	return a.store.Beat(a.queue.Queued())
}
