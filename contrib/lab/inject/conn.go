package inject

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"time"
)

// conn is one SMTP connection.
type conn struct {
	net.Conn
	stop     func() bool // ends the watch of the context
	in       *bufio.Reader
	out      []byte // commands of a transaction, later its content
	ends     []int  // where each command ends in out
	messages int    // offered on it

	pipelining, eightBit, size bool
}

func dial(ctx context.Context, in *Injector) (*conn, error) {
	d := net.Dialer{Timeout: in.Timeout}
	nc, err := d.DialContext(ctx, "tcp", in.Addr)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, in: bufio.NewReaderSize(nc, 4<<10)}
	c.stop = context.AfterFunc(ctx, func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(in.Timeout))
	if err := c.greet(in.Helo); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) greet(helo string) error {
	banner, err := c.reply()
	if err != nil {
		return err
	}
	if banner[0] != '2' {
		return fmt.Errorf("banner: %s", banner)
	}
	if _, err := fmt.Fprintf(c.Conn, "EHLO %s\r\n", helo); err != nil {
		return err
	}
	features, err := c.reply()
	if err != nil {
		return err
	}
	if features[0] != '2' {
		return fmt.Errorf("EHLO: %s", features)
	}
	for line := range strings.SplitSeq(features, "\n") {
		keyword, _, _ := strings.Cut(line[min(4, len(line)):], " ")
		switch strings.ToUpper(keyword) {
		case "PIPELINING":
			c.pipelining = true
		case "8BITMIME":
			c.eightBit = true
		case "SIZE":
			c.size = true
		}
	}
	return nil
}

// reply reads one reply, its lines joined by LF.
func (c *conn) reply() (string, error) {
	var all []byte
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) < 3 {
			return "", fmt.Errorf("reply %q", line)
		}
		last := len(line) == 3 || line[3] != '-'
		if last && all == nil {
			return string(line), nil
		}
		all = append(all, line...)
		if last {
			return string(all), nil
		}
		all = append(all, '\n')
	}
}

func (c *conn) close() {
	c.stop()
	c.Conn.Close()
}

func (c *conn) quit() {
	c.Conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Conn.Write([]byte("QUIT\r\n")); err == nil {
		c.reply() // waited for so that the server has freed our place
	}
	c.close()
}
