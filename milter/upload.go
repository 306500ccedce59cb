package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// smallMessage is the size, in octets, up to which a message is held here until
// it is complete, which spares it the hand-over between two goroutines for each
// piece. A larger one goes to the spool while it arrives.
const smallMessage = 64 << 10

// commitTime is the deadline of a verdict, from the end of the message on.
const commitTime = 30 * time.Second

// stallTime is how long the spool may take over one piece of a body. While it
// does, nothing is read from the MTA; Sendmail gives a filter up that takes
// nothing for 10 s (S in Timeouts of INPUT_MAIL_FILTER), or gives no reply, and
// Postfix after milter_content_timeout. PROGRESS is no help there: an MTA that
// writes does not read.
const stallTime = 5 * time.Second

// unfit is an error that keeps a message with the host whatever on_failure says:
// the spool has not failed.
type unfit struct{ error }

var (
	errTooBig  = unfit{errors.New("message is larger than max_message_size")}
	errBusy    = unfit{errors.New("max_bodies large messages are arriving already")}
	errStalled = fmt.Errorf("spool took nothing for %s", stallTime)
	errLate    = fmt.Errorf("spool did not commit the message within %s", commitTime)
)

// slow reports whether the spool kept a message waiting for too long.
func slow(err error) bool { return errors.Is(err, errStalled) || errors.Is(err, errLate) }

// upload is a message on its way into the spool. Append runs in a goroutine of
// its own, which nobody waits for longer than the verdict may take: if the disk
// hangs, that goroutine stays, with what it holds, until the disk answers, and
// then voids the record.
type upload struct {
	server   *Server
	ctx      context.Context // done when nobody wants the outcome any more
	cancel   context.CancelCauseFunc
	envelope *spool.Envelope
	max      int64 // octets, 0: no limit
	size     int64
	check    lines
	held     []byte         // all of a message that is small so far
	pipe     *io.PipeWriter // takes the rest of one that is not
	err      error          // why no more is taken
	done     chan outcome   // no buffer: an outcome is taken here, or stays with the goroutine
}

// outcome is what Append returned.
type outcome struct {
	receipt Receipt
	err     error
}

// newUpload begins with the header, in a buffer of the server's.
func newUpload(ctx context.Context, s *Server, e *spool.Envelope, head []byte, max int64) *upload {
	u := &upload{server: s, envelope: e, max: max, size: int64(len(head)), held: head, done: make(chan outcome)}
	u.ctx, u.cancel = context.WithCancelCause(ctx)
	return u
}

// write takes a piece of the body. Once the message cannot be spooled, the rest
// is dropped, and finish says why.
func (u *upload) write(b []byte) {
	if u.err != nil {
		return
	}
	u.size += int64(len(b))
	if err := u.check.write(b); err != nil {
		u.giveUp(unfit{fmt.Errorf("body has %w", err)})
	} else if u.max > 0 && u.size > u.max {
		u.giveUp(errTooBig)
	} else {
		u.add(b)
	}
}

func (u *upload) add(b []byte) {
	switch {
	case u.pipe == nil && len(u.held)+len(b) <= smallMessage:
		u.held = append(u.held, b...)
		return
	case u.pipe == nil:
		if !u.stream() {
			u.giveUp(errBusy)
			return
		}
	}
	late := time.AfterFunc(stallTime, func() { u.pipe.CloseWithError(errStalled) })
	defer late.Stop()
	// Any other error is Append's, and finish returns that.
	if _, err := u.pipe.Write(b); errors.Is(err, io.ErrClosedPipe) {
		u.giveUp(errStalled)
	}
}

// stream begins Append before the message is complete, if not too many do so.
func (u *upload) stream() bool {
	select {
	case u.server.bodies <- struct{}{}:
	default:
		return false
	}
	r, w := io.Pipe()
	held := u.held
	u.pipe, u.held = w, nil
	u.begin(io.MultiReader(bytes.NewReader(held), r), func() {
		r.CloseWithError(errors.New("append has ended")) // no write waits for a reader that is gone
		u.server.recycle(held)
		<-u.server.bodies
	})
	return true
}

// begin runs Append. What the message held is given back only when it returns.
func (u *upload) begin(content io.Reader, free func()) {
	u.server.appends.Go(func() {
		receipt, err := u.server.spool.Append(u.ctx, u.envelope, content)
		free()
		select {
		case u.done <- outcome{receipt, err}:
		case <-u.ctx.Done():
			if receipt == nil {
				return
			}
			if err := receipt.Void(); err != nil {
				u.server.log.Error("voiding a message that was given up, it may go out twice", "id", receipt.ID().String(), "err", err)
			}
		}
	})
}

// finish ends the body and waits until the message is durable. The error is an
// unfit, what Append returned, or one that is slow.
func (u *upload) finish() (Receipt, error) {
	defer u.cancel(nil)
	if u.err == nil {
		missing, err := u.check.end()
		if err != nil {
			u.giveUp(unfit{fmt.Errorf("body has %w", err)})
		} else if missing != "" {
			u.add([]byte(missing))
		}
	}
	if u.err != nil {
		return nil, u.err
	}
	// Only now may Append see an end of the content: all checks are behind us.
	if u.pipe != nil {
		u.pipe.Close()
	} else {
		held := u.held
		u.held = nil
		u.begin(bytes.NewReader(held), func() { u.server.recycle(held) })
	}
	late := time.AfterFunc(commitTime, func() { u.cancel(errLate) })
	defer late.Stop()
	select {
	case o := <-u.done:
		return o.receipt, o.err
	case <-u.ctx.Done():
		return nil, context.Cause(u.ctx)
	}
}

// giveUp ends the upload: there will be no record, or it is voided.
func (u *upload) giveUp(why error) {
	u.err = why
	u.cancel(why)
	if u.pipe != nil {
		u.pipe.CloseWithError(why)
	} else {
		u.server.recycle(u.held)
		u.held = nil
	}
}

// buffer returns an empty buffer for a small message.
func (s *Server) buffer() []byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, 16<<10)
}

// recycle keeps a buffer for the next message, unless a huge header blew it up.
func (s *Server) recycle(b []byte) {
	if cap(b) <= 2*smallMessage {
		s.buffers.Put(&b)
	}
}

// declaredSize is the size that the client gave with MAIL (RFC 1870), or 0.
func declaredSize(args []string) int64 {
	for _, a := range args {
		if name, value, _ := strings.Cut(a, "="); strings.EqualFold(name, "SIZE") {
			n, _ := strconv.ParseInt(value, 10, 64) // one that is out of range is the greatest there is
			return n
		}
	}
	return 0
}
