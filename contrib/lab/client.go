package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"
)

// clientTimeout bounds every reply the client waits for.
const clientTimeout = 5 * time.Minute

// Client is an SMTP client that sends exactly the bytes it is given: no
// header, no line end is touched, which libraries do not promise. It is for
// one goroutine.
type Client struct {
	conn net.Conn
	text *textproto.Conn
}

// Dial connects to "host:port" or "unix:/path" and says EHLO.
func Dial(ctx context.Context, addr string) (*Client, error) {
	var d net.Dialer
	network, to := Network(addr)
	conn, err := d.DialContext(ctx, network, to)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn, text: textproto.NewConn(conn)}
	_ = conn.SetDeadline(time.Now().Add(clientTimeout))
	if _, err = c.reply(220); err == nil {
		_, err = c.cmd(250, "EHLO client."+LocalDomain)
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, errors.Join(err, conn.Close()))
	}
	return c, nil
}

// Send sends one message over the connection. msg must end its lines with
// CRLF; dots are stuffed here, and a missing final CRLF is supplied, as SMTP
// requires. Each rcpt is an address, or an address in angle brackets followed
// by ESMTP arguments; so is from. The reply is that to the final dot. The end
// of ctx closes the connection.
func (c *Client) Send(ctx context.Context, from string, rcpts []string, msg []byte) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	if _, err := c.cmd(250, "MAIL FROM:"+path(from)); err != nil {
		return "", c.fail(err)
	}
	for _, r := range rcpts {
		if _, err := c.cmd(25, "RCPT TO:"+path(r)); err != nil {
			return "", c.fail(err)
		}
	}
	if _, err := c.cmd(354, "DATA"); err != nil {
		return "", c.fail(err)
	}
	if err := c.data(msg); err != nil {
		return "", err
	}
	return c.reply(250)
}

// fail leaves the connection ready for the next message.
func (c *Client) fail(err error) error {
	_, _ = c.cmd(250, "RSET")
	return err
}

func (c *Client) data(msg []byte) error {
	_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
	w := c.text.W
	for start := true; len(msg) > 0; {
		if start && msg[0] == '.' {
			_ = w.WriteByte('.')
		}
		n := bytes.Index(msg, []byte("\r\n.")) + 2
		if start = n > 1; !start {
			n = len(msg)
		}
		_, _ = w.Write(msg[:n])
		if n == len(msg) && !bytes.HasSuffix(msg, []byte("\r\n")) {
			_, _ = w.WriteString("\r\n")
		}
		msg = msg[n:]
	}
	_, _ = w.WriteString(".\r\n")
	return w.Flush() // bufio keeps the first error
}

// Close says QUIT.
func (c *Client) Close() error {
	_, err := c.cmd(221, "QUIT")
	return errors.Join(err, c.conn.Close())
}

func (c *Client) cmd(want int, line string) (string, error) {
	_ = c.conn.SetDeadline(time.Now().Add(clientTimeout))
	if err := c.text.PrintfLine("%s", line); err != nil {
		return "", err
	}
	reply, err := c.reply(want)
	if err != nil {
		return "", fmt.Errorf("%s: %w", line, err)
	}
	return reply, nil
}

// reply reads one reply; want may be a prefix of its code.
func (c *Client) reply(want int) (string, error) {
	code, text, err := c.text.ReadResponse(want)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %s", code, text), nil
}

// path puts an address into angle brackets unless it has them.
func path(addr string) string {
	if strings.HasPrefix(addr, "<") {
		return addr
	}
	return "<" + addr + ">"
}

// QueueID is the queue id in Postfix's or Sendmail's reply to the final dot, ""
// if none: "250 2.0.0 Ok: queued as ID", "250 2.0.0 ID Message accepted for delivery".
func QueueID(reply string) string {
	if _, id, ok := strings.Cut(reply, "queued as "); ok {
		return strings.TrimSpace(id)
	}
	if words := strings.Fields(reply); len(words) > 3 && words[3] == "Message" {
		return words[2]
	}
	return ""
}
