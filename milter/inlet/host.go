package inlet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// The time-outs of a client by RFC 5321 section 4.5.3.2, in one for the dialogue; the host
// MTA may have milters and a policy service behind each command.
const (
	dialTimeout  = 30 * time.Second
	replyTimeout = 5 * time.Minute
	dotTimeout   = 10 * time.Minute
)

const (
	maxReplyLine  = 4096
	maxReplyLines = 100
	// atOnce is how many commands are written before their replies are read: what both
	// sides' sockets hold without either waiting for the other.
	atOnce = 100
)

// errAway is a host MTA that does not answer, or says 421 or no greeting.
var errAway = errors.New("host MTA is away")

// host is a session with the host MTA, for one client.
type host struct {
	at     string // pass_to
	conn   net.Conn
	r      *bufio.Reader
	offers map[string]bool // keywords of the extensions that it has announced, in capitals
	stop   func() bool     // ends the watch of the context
}

// dial opens a session, which ends with ctx at the latest. Its error wraps errAway.
func dial(ctx context.Context, passTo, hostname string) (_ *host, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", errAway, err)
		}
	}()
	network, address, err := config.ParseListen(passTo)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	h := &host{at: passTo, conn: c, offers: map[string]bool{}, r: bufio.NewReaderSize(c, maxReplyLine), stop: context.AfterFunc(ctx, func() { c.Close() })}
	r, err := h.read(replyTimeout)
	if err == nil && strings.HasSuffix(string(r), greeting) {
		err = errors.New("pass_to is an inlet itself; remedy: name the port of the host MTA there")
	}
	if err == nil && r.ok() {
		if r, err = h.command("EHLO " + hostname); err == nil && r[0] == '5' {
			r, err = h.command("HELO " + hostname) // RFC 5321 section 3.2
		}
		if err == nil && r.ok() {
			for line := range strings.SplitSeq(string(r), "\r\n") {
				keyword, _, _ := strings.Cut(line[min(4, len(line)):], " ")
				h.offers[strings.ToUpper(keyword)] = true
			}
			return h, nil
		}
	}
	h.close()
	if err == nil {
		err = errors.New(string(r))
	}
	return nil, err
}

// read reads one reply.
func (h *host) read(within time.Duration) (reply, error) {
	h.conn.SetReadDeadline(time.Now().Add(within))
	var lines []string
	for range maxReplyLines {
		line, err := h.r.ReadSlice('\n')
		if err != nil {
			return "", fmt.Errorf("%w: %w", errAway, err)
		}
		s := strings.TrimRight(string(line), "\r\n")
		code, err := strconv.Atoi(s[:min(3, len(s))])
		if err != nil || code < 200 || code > 599 || len(s) > 3 && s[3] != ' ' && s[3] != '-' {
			return "", fmt.Errorf("%w: it says %.40q", errAway, s)
		}
		if lines = append(lines, s); len(s) < 4 || s[3] == ' ' {
			return reply(strings.Join(lines, "\r\n")), nil
		}
	}
	return "", fmt.Errorf("%w: its reply has no end", errAway)
}

func (h *host) write(b []byte) error {
	h.conn.SetWriteDeadline(time.Now().Add(replyTimeout))
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return nil
}

// command sends a command and reads its reply. 421 is an MTA that is away.
func (h *host) command(line string) (reply, error) {
	replies, err := h.commands([]string{line})
	if err != nil {
		return "", err
	}
	return replies[0], nil
}

// commands sends commands, together if the MTA takes them so, and reads all replies.
func (h *host) commands(lines []string) ([]reply, error) {
	var replies []reply
	for len(lines) > 0 {
		n := 1
		if h.offers["PIPELINING"] {
			n = min(len(lines), atOnce)
		}
		if err := h.write([]byte(strings.Join(lines[:n], "\r\n") + "\r\n")); err != nil {
			return nil, err
		}
		for range n {
			r, err := h.last(replyTimeout)
			if err != nil {
				return nil, err
			}
			if verb, _, _ := strings.Cut(lines[0], " "); r[0] == '3' && verb != "DATA" {
				return nil, r.odd(verb)
			}
			lines = lines[1:]
			replies = append(replies, r)
		}
	}
	return replies, nil
}

// last reads a reply that may be the last one: 421 is an MTA that is away.
func (h *host) last(within time.Duration) (reply, error) {
	r, err := h.read(within)
	if err == nil && strings.HasPrefix(string(r), "421") {
		return "", fmt.Errorf("%w: %s", errAway, r)
	}
	return r, err
}

// odd is the error of a reply that the command cannot have.
func (r reply) odd(command string) error {
	return fmt.Errorf("%w: it says %.40q to %s", errAway, string(r), command)
}

// data sends a message. With sent it is out of our hands: the reply is the MTA's to its end,
// or, with an error, the MTA may have taken it and the reply is lost.
func (h *host) data(parts ...io.Reader) (r reply, sent bool, err error) {
	r, err = h.command("DATA")
	switch {
	case err != nil:
		return "", false, err
	case r[0] > '3':
		return r, false, nil
	case !strings.HasPrefix(string(r), "354"): // no word of its must make a client believe that the message was taken
		return "", false, r.odd("DATA")
	}
	w := bufio.NewWriterSize(deadlined{h.conn}, 64<<10)
	if err := stuff(w, io.MultiReader(parts...)); err != nil {
		return "", false, fmt.Errorf("%w: %w", errAway, err)
	}
	// From here on a part of the mark, or all of it, may be on its way.
	w.WriteString(".\r\n")
	if err := w.Flush(); err != nil {
		return "", true, fmt.Errorf("%w: %w", errAway, err)
	}
	r, err = h.read(dotTimeout)
	if err == nil && strings.HasPrefix(string(r), "421") {
		return "", false, fmt.Errorf("%w: %s", errAway, r) // it has not taken it
	}
	if err == nil && r[0] == '3' {
		return "", true, r.odd("the end of a message")
	}
	return r, true, err
}

// stuff writes content, which ends in CRLF, with its leading dots doubled (RFC 5321 section
// 4.5.2).
func stuff(w *bufio.Writer, r io.Reader) error {
	start := true
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			if start && b[0] == '.' {
				w.WriteByte('.')
			}
			i := bytes.IndexByte(b, '\n')
			if start = i >= 0; !start {
				i = len(b) - 1
			}
			if _, werr := w.Write(b[:i+1]); werr != nil {
				return werr
			}
			b = b[i+1:]
		}
		if err == io.EOF {
			if !start {
				w.WriteString("\r\n")
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// deadlined gives each write its time.
type deadlined struct{ net.Conn }

func (d deadlined) Write(b []byte) (int, error) {
	d.SetWriteDeadline(time.Now().Add(replyTimeout))
	return d.Conn.Write(b)
}

// quit ends the session in peace, without a wait for the reply.
func (h *host) quit() {
	h.conn.SetWriteDeadline(time.Now().Add(time.Second))
	h.conn.Write([]byte("QUIT\r\n"))
	h.close()
}

func (h *host) close() {
	h.stop()
	h.conn.Close()
}
