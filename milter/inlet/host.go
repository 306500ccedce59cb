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

	"github.com/emersion/go-smtp"

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
	conn      net.Conn
	r         *bufio.Reader
	pipelines bool // it has announced PIPELINING; OpenSMTPD refuses commands that come before it has answered
}

// dial opens a session. Its error wraps errAway.
func dial(ctx context.Context, passTo, hostname string) (*host, error) {
	network, address, err := config.ParseListen(passTo)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	h := &host{conn: c, r: bufio.NewReaderSize(c, maxReplyLine)}
	greeting, err := h.read(replyTimeout)
	if err == nil && greeting.Code == 220 {
		var ehlo *smtp.SMTPError
		if ehlo, err = h.command("EHLO " + hostname); err == nil && ehlo.Code == 250 {
			for line := range strings.SplitSeq(ehlo.Message, "\n") {
				h.pipelines = h.pipelines || strings.EqualFold(line, "PIPELINING")
			}
			return h, nil
		}
		greeting = ehlo
	}
	h.close()
	if err == nil {
		err = greeting
	}
	return nil, fmt.Errorf("%w: %w", errAway, err)
}

// read reads one reply.
func (h *host) read(within time.Duration) (*smtp.SMTPError, error) {
	h.conn.SetReadDeadline(time.Now().Add(within))
	reply := &smtp.SMTPError{EnhancedCode: smtp.NoEnhancedCode}
	var text []string
	for range maxReplyLines {
		line, err := h.r.ReadSlice('\n')
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errAway, err)
		}
		s := strings.TrimRight(string(line), "\r\n")
		code, err := strconv.Atoi(s[:min(3, len(s))])
		if err != nil || code < 200 || code > 599 || len(s) > 3 && s[3] != ' ' && s[3] != '-' {
			return nil, fmt.Errorf("%w: it says %.40q", errAway, s)
		}
		reply.Code = code
		words := s[min(4, len(s)):]
		reply.EnhancedCode, words = enhanced(code, words)
		text = append(text, words)
		if len(s) < 4 || s[3] == ' ' {
			reply.Message = strings.Join(text, "\n")
			return reply, nil
		}
	}
	return nil, fmt.Errorf("%w: its reply has no end", errAway)
}

// enhanced takes the enhanced status code off a reply's text (RFC 2034).
func enhanced(code int, s string) (smtp.EnhancedCode, string) {
	word, rest, _ := strings.Cut(s, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || parts[0] != strconv.Itoa(code/100) {
		return smtp.NoEnhancedCode, s
	}
	var e smtp.EnhancedCode
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 || len(p) > 3 {
			return smtp.NoEnhancedCode, s
		}
		e[i] = n
	}
	return e, rest
}

func (h *host) write(b []byte) error {
	h.conn.SetWriteDeadline(time.Now().Add(replyTimeout))
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	return nil
}

// command sends a command and reads its reply. 421 is an MTA that is away.
func (h *host) command(line string) (*smtp.SMTPError, error) {
	replies, err := h.commands([]string{line})
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// commands sends commands that may be pipelined, and reads all replies.
func (h *host) commands(lines []string) ([]*smtp.SMTPError, error) {
	var replies []*smtp.SMTPError
	most := 1
	if h.pipelines {
		most = atOnce
	}
	for len(lines) > 0 {
		now := lines[:min(len(lines), most)]
		lines = lines[len(now):]
		if err := h.write([]byte(strings.Join(now, "\r\n") + "\r\n")); err != nil {
			return nil, err
		}
		for range now {
			r, err := h.read(replyTimeout)
			if err != nil {
				return nil, err
			}
			if r.Code == 421 {
				return nil, fmt.Errorf("%w: %w", errAway, r)
			}
			replies = append(replies, r)
		}
	}
	return replies, nil
}

// data sends a message. sent says that all of it was, with its end: then the MTA may have
// taken it although its reply is lost.
func (h *host) data(parts ...io.Reader) (reply *smtp.SMTPError, sent bool, err error) {
	reply, err = h.command("DATA")
	if err != nil || reply.Code != 354 {
		return reply, false, err
	}
	w := bufio.NewWriterSize(deadlined{h.conn}, 64<<10)
	if err := stuff(w, io.MultiReader(parts...)); err != nil {
		return nil, false, fmt.Errorf("%w: %w", errAway, err)
	}
	// From here on a part of the mark, or all of it, may be on its way.
	w.WriteString(".\r\n")
	if err := w.Flush(); err != nil {
		return nil, true, fmt.Errorf("%w: %w", errAway, err)
	}
	reply, err = h.read(dotTimeout)
	return reply, true, err
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

func (h *host) close() { h.conn.Close() }
