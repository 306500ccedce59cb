package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
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
	errTooBig   = unfit{errors.New("message is larger than max_message_size")}
	errBusy     = unfit{errors.New("max_bodies large messages are arriving already")}
	errDraining = errors.New("the spool is being drained")

	errStalled = fmt.Errorf("spool took nothing for %s", stallTime)
	errLate    = fmt.Errorf("spool did not commit the message within %s", commitTime)
)

// slow reports whether the spool kept a message waiting for too long.
func slow(err error) bool { return errors.Is(err, errStalled) || errors.Is(err, errLate) }

// upload is a message on its way into the spool.
type upload struct {
	server   *Server
	ctx      context.Context
	envelope *spool.Envelope
	max      int64 // octets, 0: no limit
	size     int64
	check    lines
	held     []byte          // all of a message that is small so far
	rest     io.Reader       // of one that is in memory already; nil: none
	stream   *stream         // takes the rest of one that is not small
	appends  *sync.WaitGroup // to wait for before the spool is closed
	err      error           // why no more is taken
}

// newUpload begins with the header, in a buffer of the server's.
func newUpload(ctx context.Context, s *Server, e *spool.Envelope, head []byte, max int64) *upload {
	return &upload{server: s, ctx: ctx, envelope: e, max: max, size: int64(len(head)), held: head, appends: &s.appends}
}

// whole takes a body that has been checked. One that is in memory goes from there into the
// spool, of whatever size: Append does not touch the disk before it waits for the syncer, so it needs
// no goroutine of its own. That holds below the size from which the spool has files.
func (u *upload) whole(body io.Reader, inMemory bool) {
	if inMemory {
		u.rest = body
		return
	}
	buf := make([]byte, 32<<10)
	for u.err == nil {
		n, err := body.Read(buf)
		u.add(buf[:n])
		if err == io.EOF {
			return
		}
		if err != nil {
			u.giveUp(err)
		}
	}
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
	if u.stream == nil {
		if len(u.held)+len(b) <= smallMessage {
			u.held = append(u.held, b...)
			return
		}
		select {
		case u.server.bodies <- struct{}{}:
		default:
			u.giveUp(errBusy)
			return
		}
		u.stream, u.held = u.server.newStream(u.ctx, u.envelope, u.held, u.appends), nil
	}
	if !u.stream.write(b) {
		u.giveUp(errStalled)
	}
}

// finish ends the body and waits until the message is durable. The error is an
// unfit, what Append returned, or one that is slow.
func (u *upload) finish() (Receipt, error) {
	if u.err == nil {
		missing, err := u.check.end()
		if err != nil {
			u.giveUp(unfit{fmt.Errorf("body has %w", err)})
		} else if missing != "" {
			u.add([]byte(missing))
		}
	}
	// Only now may Append see an end of the content: all checks are behind us.
	switch {
	case u.err != nil:
		return nil, u.err
	case u.stream != nil:
		return u.stream.finish()
	}
	ctx, cancel := context.WithTimeoutCause(u.ctx, commitTime, errLate)
	defer cancel()
	defer u.server.recycle(u.held)
	content := io.Reader(bytes.NewReader(u.held))
	if u.rest != nil {
		content = io.MultiReader(content, u.rest)
	}
	return u.server.spool.Append(ctx, u.envelope, content)
}

// giveUp ends the upload: there will be no record, or it is voided.
func (u *upload) giveUp(why error) {
	u.err = why
	if u.stream != nil {
		u.stream.giveUp(why)
		return
	}
	u.server.recycle(u.held)
	u.held = nil
}

// stream is an Append that reads while the body arrives. It runs in a goroutine
// of its own, which nobody waits for longer than the verdict may take: if the
// disk hangs, that goroutine stays, with the place it has among max_bodies, until
// the disk answers, and then voids the record.
type stream struct {
	pipe   *io.PipeWriter
	ctx    context.Context // done when nobody wants the outcome any more
	cancel context.CancelCauseFunc
	done   chan outcome // no buffer: the outcome is taken, or stays with the goroutine
}

// outcome is what Append returned.
type outcome struct {
	receipt Receipt
	err     error
}

// newStream begins an Append with what was held of a message. It owns that from
// now on, and the place among max_bodies.
func (s *Server) newStream(ctx context.Context, e *spool.Envelope, held []byte, appends *sync.WaitGroup) *stream {
	r, w := io.Pipe()
	t := &stream{pipe: w, done: make(chan outcome)}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	appends.Go(func() {
		receipt, err := s.spool.Append(t.ctx, e, io.MultiReader(bytes.NewReader(held), r))
		r.CloseWithError(errors.New("append has ended")) // no write waits for a reader that is gone
		s.recycle(held)
		<-s.bodies
		select {
		case t.done <- outcome{receipt, err}:
		case <-t.ctx.Done():
			if receipt == nil {
				return
			}
			if err := receipt.Void(); err != nil {
				s.log.Error("voiding a message that was given up, it may go out twice", "id", receipt.ID().String(), "err", err)
			}
		}
	})
	return t
}

// write is false if the spool stalls. Any other error is Append's, and finish
// returns that.
func (t *stream) write(b []byte) bool {
	late := time.AfterFunc(stallTime, func() { t.pipe.CloseWithError(errStalled) })
	defer late.Stop()
	_, err := t.pipe.Write(b)
	return !errors.Is(err, io.ErrClosedPipe)
}

// finish ends the content and waits for the commit.
func (t *stream) finish() (Receipt, error) {
	defer t.cancel(nil)
	t.pipe.Close()
	late := time.AfterFunc(commitTime, func() { t.cancel(errLate) })
	defer late.Stop()
	select {
	case o := <-t.done:
		return o.receipt, o.err
	case <-t.ctx.Done():
		return nil, context.Cause(t.ctx)
	}
}

func (t *stream) giveUp(why error) {
	t.pipe.CloseWithError(why)
	t.cancel(why)
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
