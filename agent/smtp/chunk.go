package smtp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxBdat is how long the command before a chunk can be.
const maxBdat = len("BDAT 65536 LAST\r\n")

// chunks tells whether a transaction goes by BDAT (RFC 3030) rather than DATA: as
// one chunk, behind its envelope in the same write. That is one flight where DATA
// takes two, since nothing waits for 354. The price is that the content goes out
// in vain when everybody is refused. So a message that does not fit a block with
// its envelope takes DATA: one flight of many is little, its octets are not.
//
// The envelope is in c.command then.
func (c *Conn) chunks(tx *Tx) bool {
	if !c.ext.Chunking || !c.ext.Pipelining || tx.Size < max(1, int64(len(tx.Prefix))) || len(c.steps) >= maxGroup {
		return false
	}
	steps := c.steps
	if steps[0].stage == StageReset {
		steps = steps[1:] // goes by itself
	}
	c.command = c.appendSteps(c.command[:0], tx, steps)
	// One octet more than is needed shows that the content ends where it should.
	return int64(len(c.command)+maxBdat+len("\r\n")+1)+tx.Size <= blockSize
}

// chunk sends envelope and content in one write and settles the recipients.
//
// Once the last octet may have been seen the message may have been accepted, even
// if the reply to MAIL never comes. So from there on those that no reply has
// settled are InDoubt, where DATA could still say NotOffered.
//
// An error without a reply to the message blames BDAT (Error.Chunk) until a message has
// gone that way on the connection: servers are met that announce it and do not know it.
func (c *Conn) chunk(tx *Tx, out []RcptResult, env *envelope) error {
	steps := c.steps
	if steps[0].stage == StageReset {
		// A server that refuses all and then takes the chunk for commands answers
		// every line of it. So RSET waits for its reply: anything else shows that
		// the dialogue is out of step, before this message is on its way.
		if err := c.say([]byte("RSET\r\n"), c.timeouts.Mail); err != nil {
			c.lost = err
		}
		_, err := c.answers(steps[:1], false, out, env)
		if err == nil && c.replies.unread() {
			err = c.fail(StageReset, ErrOutOfTurn)
		}
		if err != nil {
			settle(out, NotOffered, StageReset, Reply{})
			return err
		}
		steps = steps[1:]
	}

	fate, err := c.writeChunk(tx)
	if err != nil && isContentError(err) {
		settle(out, NotOffered, StageContent, Reply{})
		return c.fail(StageContent, err)
	}
	c.lost = err
	stage, err := c.answers(steps, true, out, env)
	if err == nil {
		stage = StageDot
		c.behind = 1 // a line of the content may have been taken for a command
		err = c.reply(c.timeouts.DataEnd, nil)
		c.behind = 0
		if err != nil {
			err = c.fail(stage, err)
		} else if code := c.replies.code; env.alive > 0 && (code >= 500 && code <= 504 || !c.chunked && c.replies.aboutBDAT()) {
			// The content may have been taken for commands, each with a reply: no telling
			// where they end.
			settle(out, NotOffered, stage, Reply{})
			c.Close()
			return &Error{Stage: stage, Reply: c.replies.reply(), Err: ErrNoChunking, Chunk: true}
		}
	}
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Reply.Code == 0 {
			e.Chunk = fate == InDoubt && !c.chunked
		}
		settle(out, fate, stage, Reply{})
		return err
	}
	c.chunked = true
	if env.alive == 0 && env.accepted > 0 && c.replies.code/100 == 2 {
		// MAIL was refused, yet a RCPT and the message went through.
		return c.failReply(StageDot, ErrMalformedReply)
	}
	return c.verdict(out)
}

// aboutBDAT says whether the refusal just read is of the command and says nothing of the
// message, though its code is none of 500 to 504 (RFC 5321 4.2.2): by its status (RFC 3463:
// X.5.1, X.5.2, X.5.4) or by its words. One that was misread costs a second one, to DATA.
func (p *replyReader) aboutBDAT() bool {
	if p.code/100 != 4 && p.code/100 != 5 || p.code == 421 {
		return false
	}
	switch string(p.enhanced) {
	case "5.5.1", "5.5.2", "5.5.4":
		return true
	}
	words := bytes.ToUpper(p.text)
	return bytes.Contains(words, []byte("BDAT")) || bytes.Contains(words, []byte("CHUNKING"))
}

// writeChunk writes the envelope in c.command and the message behind it. It gives
// the fate of those whom no reply will have settled. Nothing is written before all
// the content was read well.
func (c *Conn) writeChunk(tx *Tx) (Fate, error) {
	k := newBlock(tx.Content)
	defer k.free() // now: no block is kept while a reply is awaited

	// The commands come last and end where the content begins, since only its end
	// tells the size to name.
	head := len(c.command) + maxBdat
	k.b = append(k.b[:head], tx.Prefix...)
	n, err := io.ReadFull(&k.src, k.b[len(k.b):cap(k.b)-len("\r\n")])
	switch {
	case err == nil:
		return NotOffered, fmt.Errorf("%w: it is longer than Tx.Size, %d octets", ErrContent, tx.Size)
	case err != io.EOF && err != io.ErrUnexpectedEOF:
		return NotOffered, err
	}
	k.b = k.b[:len(k.b)+n]
	if len(k.b) > head && !bytes.HasSuffix(k.b[head:], []byte("\r\n")) {
		k.b = append(k.b, "\r\n"...)
	}
	size := len(k.b) - head

	bdat := append(strconv.AppendInt(append(c.command, "BDAT "...), int64(size), 10), " LAST\r\n"...)
	c.command = bdat
	if !c.commit() {
		return NotOffered, ErrAbandoned
	}
	c.traceCommands(bdat)
	b := k.b[head-len(bdat):]
	copy(b, bdat)
	n, err = c.wire.write(b, c.timeouts.DataBlock)
	c.traceContent(max(0, n-len(bdat)), err)
	if n < len(b) {
		return NotOffered, err
	}
	return InDoubt, err
}
