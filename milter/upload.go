package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// commitTime bounds how long a message may take to become durable once the MTA
// has sent all of it.
const commitTime = 30 * time.Second

// upload is an Append under way: the body goes in while it arrives, so a large
// one is never in memory. Its goroutine ends before finish or abort returns.
type upload struct {
	pipe   *io.PipeWriter
	check  lines
	err    error // why the content cannot leave unchanged
	cancel context.CancelFunc
	done   chan struct{}

	// Set when done is closed.
	receipt Receipt
	failed  error
}

// contentError is content that could not leave unchanged.
type contentError struct{ error }

// start begins to append a message with a header that was checked.
func start(ctx context.Context, s Spool, e *spool.Envelope, head []byte) *upload {
	r, w := io.Pipe()
	u := &upload{pipe: w, done: make(chan struct{})}
	ctx, u.cancel = context.WithCancel(ctx)
	go func() {
		defer close(u.done)
		u.receipt, u.failed = s.Append(ctx, e, io.MultiReader(bytes.NewReader(head), r))
		r.CloseWithError(errors.New("append has ended")) // no write waits for a reader that is gone
	}()
	return u
}

// write takes a piece of the body. After bad content the rest is dropped: what
// Append has read so far fails with it, and no record is made.
func (u *upload) write(b []byte) {
	if u.err != nil {
		return
	}
	if err := u.check.write(b); err != nil {
		u.bad(err)
		return
	}
	u.pipe.Write(b) // an error is Append's, and finish returns that
}

func (u *upload) bad(err error) {
	u.err = contentError{fmt.Errorf("body has %w", err)}
	u.pipe.CloseWithError(u.err)
}

// finish ends the body and waits until the message is durable. The error is a
// contentError or what Append returned.
func (u *upload) finish() (Receipt, error) {
	defer u.cancel()
	if u.err == nil {
		missing, err := u.check.end()
		if err != nil {
			u.bad(err)
		} else if missing != "" {
			io.WriteString(u.pipe, missing)
		}
	}
	// Only now may Append see an end of the content: all checks are behind us.
	if u.err == nil {
		u.pipe.Close()
	}
	late := time.AfterFunc(commitTime, u.cancel)
	defer late.Stop()
	<-u.done
	if u.err != nil {
		return nil, errors.Join(u.err, u.void())
	}
	return u.receipt, u.failed
}

// abort gives the message up.
func (u *upload) abort() error {
	u.cancel()
	u.pipe.CloseWithError(errors.New("message aborted by the MTA"))
	<-u.done
	return u.void()
}

// void takes back a record that should not have been made.
func (u *upload) void() error {
	if u.failed == nil && u.receipt != nil {
		return u.receipt.Void()
	}
	return nil
}
