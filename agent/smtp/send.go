package smtp

import (
	"context"
	"errors"
	"net"
	"os"
	"time"
)

const (
	// maxGroup is how many commands go in one write at most, so that the
	// replies to them always fit the buffers and neither side waits for the
	// other to read (RFC 2920 3.1).
	maxGroup = 100
	// pendingWait is how long after a failed write the replies sent before it
	// are waited for. They are mostly there already.
	pendingWait = 2 * time.Second
)

// step is one command of an envelope.
type step struct {
	stage Stage
	rcpt  int // of StageRcpt: index in Tx.Recipients
}

// envelope is how far the commands of a transaction came.
type envelope struct {
	alive    int  // recipients not refused: accepted, or not answered yet
	accepted int  // recipients whose RCPT had 2xx
	started  bool // DATA had 3xx
}

// Send carries out one transaction.
//
// The error is nil exactly when the connection can take another one; otherwise
// it is an *Error and the connection is closed. The Result is valid in both
// cases, for each recipient:
//
//   - Accepted: Reply is the one to the final dot.
//   - Refused: a 4xx or 5xx to MAIL, RCPT, DATA or the final dot, or one sent
//     while content was being written before the peer closed (StageContent).
//     A refusal of MAIL counts for all recipients. So does 421, but only for
//     those it answered. On a connection that had been idle a 421 to MAIL says
//     more about the connection than about the message.
//   - InDoubt: the connection failed after the final dot, or the context ended.
//     With BDAT that is from its write on, even before the reply to MAIL.
//   - NotOffered: the connection failed earlier, or RcptResult.Err is set.
//
// If reading tx.Content fails, the connection is cut before the final dot; the
// error wraps ErrContent and the cause, and no recipient is Accepted or InDoubt.
func (c *Conn) Send(ctx context.Context, tx *Tx) (Result, error) {
	out := make([]RcptResult, len(tx.Recipients))
	c.phase.Store(offering)
	err := c.send(ctx, tx, out)
	if !c.phase.CompareAndSwap(committed, noneOffered) && !c.phase.CompareAndSwap(offering, noneOffered) && err == nil {
		err = c.fail(StageIdle, ErrAbandoned) // when all was over
	}
	return Result{Recipients: out}, err
}

func (c *Conn) send(ctx context.Context, tx *Tx, out []RcptResult) error {
	if c.closed.Load() {
		return c.fail(StageIdle, net.ErrClosed)
	}
	if c.replies.unread() {
		// What is there would be taken for the reply to MAIL.
		return c.fail(StageIdle, ErrOutOfTurn)
	}
	env := envelope{alive: c.fit(tx, out)}
	if env.alive == 0 {
		return nil
	}
	c.wire.bind(ctx)
	stale := c.stale
	c.stale = true // until the message had its 2xx
	c.plan(out, stale)
	if c.chunks(tx) {
		return c.chunk(tx, out, &env)
	}
	if stage, err := c.envelope(tx, out, &env); err != nil {
		settle(out, NotOffered, stage, Reply{})
		return err
	}
	switch {
	case !env.started:
		return nil
	case env.alive > 0:
		return c.content(tx, out)
	case env.accepted > 0:
		// MAIL was refused, yet a RCPT and DATA went through. A dot now
		// would deliver an empty message.
		return c.fail(StageData, ErrMalformedReply)
	default:
		return c.loneDot()
	}
}

// fit sets Err of the recipients that cannot go to this peer, and counts the
// others.
func (c *Conn) fit(tx *Tx, out []RcptResult) int {
	if own := int64(len(tx.Prefix)); tx.AsTaken && c.ext.MaxSize > 0 && tx.Size > c.ext.MaxSize && tx.Size-own <= c.ext.MaxSize {
		// The host took the message, and our own field alone is what would keep it from
		// taking it back: then it goes without.
		tx.Size, tx.Prefix = tx.Size-own, nil
	}
	err := error(nil)
	switch {
	case c.ext.MaxSize > 0 && tx.Size > c.ext.MaxSize:
		err = ErrTooBig
	case tx.EightBit && !c.ext.SMTPUTF8 && declaresUTF8(tx):
		// Its header may be UTF-8. Whether it is, the host MTA knows.
		err = ErrNeedsSMTPUTF8
	case tx.Sender != "":
		err = c.usable(tx, tx.Sender)
	}
	n := 0
	for i := range out {
		if out[i].Err = err; err == nil {
			out[i].Err = c.usable(tx, tx.Recipients[i].Address)
		}
		if out[i].Err == nil {
			n++
		}
	}
	return n
}

// plan lists the commands of a transaction up to the last RCPT.
func (c *Conn) plan(out []RcptResult, reset bool) {
	steps := c.steps[:0]
	if reset {
		steps = append(steps, step{stage: StageReset})
	}
	steps = append(steps, step{stage: StageMail})
	for i := range out {
		if out[i].Err == nil {
			steps = append(steps, step{StageRcpt, i})
		}
	}
	c.steps = steps
}

// envelope has the commands planned and DATA, as many in a write as the peer
// allows. It stops early where no recipient is left. On an error it gives the
// stage.
func (c *Conn) envelope(tx *Tx, out []RcptResult, env *envelope) (Stage, error) {
	c.steps = append(c.steps, step{stage: StageData})
	steps := c.steps
	for len(steps) > 0 && env.alive > 0 {
		group := steps[:1]
		if c.ext.Pipelining {
			group = steps[:min(len(steps), maxGroup)]
		}
		steps = steps[len(group):]
		c.command = c.appendSteps(c.command[:0], tx, group)
		if err := c.say(c.command, c.timeouts.Mail); err != nil {
			// A peer that said 421 and closed has said it: read that first.
			c.lost = err
		}
		if stage, err := c.answers(group, false, out, env); err != nil {
			return stage, err
		}
	}
	return 0, nil
}

// appendSteps appends the commands of steps.
func (c *Conn) appendSteps(b []byte, tx *Tx, steps []step) []byte {
	for _, s := range steps {
		switch s.stage {
		case StageReset:
			b = append(b, "RSET\r\n"...)
		case StageMail:
			b = c.appendMail(b, tx)
		case StageRcpt:
			b = c.appendRcpt(b, tx, &tx.Recipients[s.rcpt])
		case StageData:
			b = append(b, "DATA\r\n"...)
		}
	}
	return b
}

// answers reads the replies to the steps of one write, of which the last is that of the
// write unless more says that another one follows. On an error it gives the stage.
func (c *Conn) answers(steps []step, more bool, out []RcptResult, env *envelope) (Stage, error) {
	defer func() { c.behind = 0 }()
	for i, s := range steps {
		c.behind = len(steps) - 1 - i
		if more {
			c.behind++
		}
		if err := c.answer(s, out, env); err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				e.Group = !more && len(steps) > 1 && (errors.Is(err, ErrMalformedReply) || i > 0 && errors.Is(err, os.ErrDeadlineExceeded))
			}
			return s.stage, err
		}
	}
	if c.lost != nil {
		return steps[0].stage, c.fail(steps[0].stage, c.lost)
	}
	return 0, nil
}

// answer reads the reply to one command of the envelope and notes what follows
// from it.
func (c *Conn) answer(s step, out []RcptResult, env *envelope) error {
	d := c.timeouts.Mail
	switch s.stage {
	case StageRcpt:
		d = c.timeouts.Rcpt
	case StageData:
		d = c.timeouts.DataStart
	}
	if err := c.pending(d); err != nil {
		return c.fail(s.stage, err)
	}
	code := c.replies.code
	ok, refused := code/100 == 2, code/100 == 4 || code/100 == 5
	switch s.stage {
	case StageReset:
		if !ok {
			return c.failReply(s.stage, nil)
		}
	case StageMail:
		if refused {
			settle(out, Refused, s.stage, c.replies.reply())
			env.alive = 0
		}
	case StageRcpt:
		r := &out[s.rcpt]
		if ok {
			env.accepted++
		} else if refused && r.Fate == NotOffered {
			r.Fate, r.Stage, r.Reply = Refused, s.stage, c.replies.reply()
			env.alive--
		}
	case StageData:
		ok = code/100 == 3 // 354, and what is met in its place
		env.started = ok
		if refused && env.alive > 0 {
			settle(out, Refused, s.stage, c.replies.reply())
			env.alive = 0
		}
	}
	if code == 421 {
		return c.failReply(s.stage, nil)
	}
	if !ok && !refused {
		return c.failReply(s.stage, ErrMalformedReply)
	}
	return nil
}

// pending reads the next reply, which has d to come, or, after a failed write,
// pendingWait; then the write's error is the one that counts.
func (c *Conn) pending(d time.Duration) error {
	if c.lost == nil {
		return c.reply(d, nil)
	}
	if c.reply(min(d, pendingWait), nil) != nil {
		return c.lost
	}
	return nil
}

// content sends the message after 354 and settles the recipients that are
// left.
func (c *Conn) content(tx *Tx, out []RcptResult) error {
	stage, err := c.writeContent(tx)
	if err != nil && !isContentError(err) {
		c.lost = err
		err = c.pending(pendingWait)
		// Only a refusal counts now; whatever else is there came too early.
		if err == nil && c.replies.code/100 != 4 && c.replies.code/100 != 5 {
			err = c.lost
		}
		if err == nil {
			settle(out, Refused, stage, c.replies.reply())
			return c.failReply(stage, nil)
		}
	} else if err == nil {
		err = c.reply(c.timeouts.DataEnd, nil)
	}
	if err != nil {
		fate := NotOffered
		if stage == StageDot {
			fate = InDoubt
		}
		settle(out, fate, stage, Reply{})
		return c.fail(stage, err)
	}
	return c.verdict(out)
}

// writeContent writes prefix and content up to the final dot.
func (c *Conn) writeContent(tx *Tx) (Stage, error) {
	c.body = body{Reader: tx.Content}
	defer func() { c.body = body{} }()
	if !c.traces() {
		return writeContent(tx.Prefix, &c.body, c.writeBlock)
	}
	octets := 0
	stage, err := writeContent(tx.Prefix, &c.body, func(p []byte) (int, error) {
		n, err := c.writeBlock(p)
		octets += n
		return n, err
	})
	c.traceContent(octets, err)
	return stage, err
}

// verdict settles the recipients that are left by the reply to the whole
// message, which was just read.
func (c *Conn) verdict(out []RcptResult) error {
	switch reply := c.replies.reply(); {
	case reply.Code/100 == 2:
		settle(out, Accepted, StageDot, reply)
		c.stale = false
	case reply.Code/100 == 3:
		settle(out, InDoubt, StageDot, reply)
		return c.failReply(StageDot, ErrMalformedReply)
	default:
		settle(out, Refused, StageDot, reply)
		if reply.Code == 421 {
			return c.failReply(StageDot, nil)
		}
		return nil
	}
	if c.ext.DSN {
		for i := range out {
			out[i].DSNTaken = out[i].Fate == Accepted
		}
	}
	return nil
}

// loneDot ends a DATA that was let through although every recipient was
// refused (RFC 2920 3.1). Whatever the answer, no message went anywhere.
func (c *Conn) loneDot() error {
	if err := c.say([]byte(finalDot), c.timeouts.DataBlock); err != nil {
		return c.fail(StageDot, err)
	}
	if err := c.reply(c.timeouts.DataEnd, nil); err != nil {
		return c.fail(StageDot, err)
	}
	if c.replies.code == 421 {
		return c.failReply(StageDot, nil)
	}
	return nil
}

// settle gives the recipients that were offered and not refused their fate.
func settle(out []RcptResult, f Fate, s Stage, r Reply) {
	for i := range out {
		if o := &out[i]; o.Err == nil && o.Fate == NotOffered {
			o.Fate, o.Stage, o.Reply = f, s, r
		}
	}
}
