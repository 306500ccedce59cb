package inject

import (
	"bytes"
	"strconv"
	"strings"
	"time"
)

// outcome is what became of the accepted recipients.
type outcome int

const (
	unsettled outcome = iota // not taken: may be offered again
	taken                    // 250 at the final dot
	refused                  // 5xx at DATA or at the final dot
	doubtful                 // the final dot was sent, its reply never came
)

// transaction is one message to some of its recipients, and what came of it.
type transaction struct {
	message    *Message
	recipients []string

	asked    int // recipients whose RCPT is answered
	accepted []string
	deferred []string
	rejected int
	outcome  outcome // of the accepted ones
	reply    string  // the first one that was not a success
	closing  bool    // the server said 421
}

// send does a transaction: MAIL, all RCPT and DATA in one flight where the
// server allows it (RFC 2920), content and final dot in the next. An error
// means the connection is of no use any more.
func (c *conn) send(t *transaction, timeout time.Duration) error {
	c.SetDeadline(time.Now().Add(timeout))
	data, err := c.envelope(t)
	if err != nil || t.closing {
		t.deferred = append(t.deferred, t.recipients[t.asked:]...)
		return err
	}
	switch {
	case data != '3':
		t.settle(data)
		return c.alone(t, "RSET\r\n") // the server may hold the transaction open
	case len(t.accepted) == 0:
		return c.alone(t, ".\r\n")
	}
	c.out = appendStuffed(c.out[:0], t.message.Content)
	if _, err := c.Write(c.out); err != nil {
		return err
	}
	reply, err := c.reply()
	if err != nil {
		t.outcome = doubtful
		return err
	}
	t.settle(t.take(reply))
	return nil
}

// envelope says MAIL, RCPT and DATA and gives the first digit of DATA's reply;
// '5' if it was not worth saying.
func (c *conn) envelope(t *transaction) (data byte, err error) {
	c.compose(t)
	if c.pipelining {
		if _, err := c.Write(c.out); err != nil {
			return 0, err
		}
	}
	mail, err := c.answer(t, 0)
	if err != nil || t.closing {
		return 0, err
	}
	if mail != '2' && !c.pipelining {
		t.noMail(mail)
		return '5', nil
	}
	for i, r := range t.recipients {
		code, err := c.answer(t, i+1)
		if err != nil || t.closing {
			return 0, err
		}
		if mail != '2' {
			continue // says nothing about the recipient, nor is it settled
		}
		t.asked++
		switch {
		case code == '2':
			t.accepted = append(t.accepted, r)
		case code == '5':
			t.rejected++
		default:
			t.deferred = append(t.deferred, r)
		}
	}
	data = '5'
	if len(t.accepted) > 0 || c.pipelining {
		if data, err = c.answer(t, len(t.recipients)+1); err != nil || t.closing {
			return 0, err
		}
	}
	if mail != '2' {
		t.noMail(mail)
	}
	return data, nil
}

// noMail settles all recipients by the reply to MAIL.
func (t *transaction) noMail(mail byte) {
	t.asked = len(t.recipients)
	if mail == '5' {
		t.rejected = t.asked
	} else {
		t.deferred = append(t.deferred, t.recipients...)
	}
}

// compose writes the commands into out.
func (c *conn) compose(t *transaction) {
	m := t.message
	c.ends = c.ends[:0]
	b := append(append(append(c.out[:0], "MAIL FROM:<"...), m.Sender...), '>')
	if c.size {
		b = strconv.AppendInt(append(b, " SIZE="...), int64(len(m.Content)), 10)
	}
	if c.eightBit && hasEightBit(m.Content) {
		b = append(b, " BODY=8BITMIME"...)
	}
	b = append(b, "\r\n"...)
	c.ends = append(c.ends, len(b))
	for _, r := range t.recipients {
		b = append(append(append(b, "RCPT TO:<"...), r...), ">\r\n"...)
		c.ends = append(c.ends, len(b))
	}
	b = append(b, "DATA\r\n"...)
	c.ends = append(c.ends, len(b))
	c.out = b
}

// answer gives the first digit of the reply to the i-th command, which without
// pipelining is written only now.
func (c *conn) answer(t *transaction, i int) (byte, error) {
	if !c.pipelining {
		from := 0
		if i > 0 {
			from = c.ends[i-1]
		}
		if _, err := c.Write(c.out[from:c.ends[i]]); err != nil {
			return 0, err
		}
	}
	reply, err := c.reply()
	if err != nil {
		return 0, err
	}
	return t.take(reply), nil
}

// alone says something whose reply changes nothing.
func (c *conn) alone(t *transaction, line string) error {
	if _, err := c.Write([]byte(line)); err != nil {
		return err
	}
	reply, err := c.reply()
	if strings.HasPrefix(reply, "421") {
		t.closing = true
	}
	return err
}

// take notes a reply and gives its first digit.
func (t *transaction) take(reply string) byte {
	if reply[0] > '3' && t.reply == "" {
		t.reply = reply
	}
	if strings.HasPrefix(reply, "421") {
		t.closing = true
	}
	return reply[0]
}

// settle gives the accepted recipients their outcome by the reply to DATA or
// to the final dot.
func (t *transaction) settle(code byte) {
	switch code {
	case '2':
		t.outcome = taken
	case '5':
		t.outcome = refused
		t.rejected += len(t.accepted)
	}
}

// appendStuffed adds content as it goes over the wire, with the final dot.
func appendStuffed(b, content []byte) []byte {
	if len(content) > 0 && content[0] == '.' {
		b = append(b, '.')
	}
	for {
		i := bytes.Index(content, []byte("\n."))
		if i < 0 {
			break
		}
		b = append(append(b, content[:i+2]...), '.')
		content = content[i+2:]
	}
	b = append(b, content...)
	if !endsLine(b) {
		b = append(b, "\r\n"...)
	}
	return append(b, ".\r\n"...)
}

func endsLine(content []byte) bool { return bytes.HasSuffix(content, []byte("\r\n")) }

func hasEightBit(content []byte) bool {
	for _, c := range content {
		if c >= 0x80 {
			return true
		}
	}
	return false
}
