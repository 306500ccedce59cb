package inlet

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/milter/wire"
)

const (
	// maxCommand is the longest command line in octets (Postfix's line_length_limit).
	maxCommand = 2048
	// minRate is how many octets a second a message must come with, over the time-out
	// (Postfix's smtpd_min_data_rate).
	minRate = 500
	// maxJunk is how many commands that lead nowhere there may be between two messages
	// (Postfix's smtpd_junk_command_limit).
	maxJunk = 100
)

// front is a client's connection as go-smtp sees it. It hands over one command line a read,
// so line is always that of the command that is being answered; content it hands over up to
// its end, and not an octet of what follows. It knows of DATA by the reply 354, and of BDAT
// by the command.
//
// A CR or LF by itself in a command or in DATA ends the connection with 550: a peer that
// takes such for the end of a line would see other commands than we do (SMTP smuggling).
// In BDAT they are content, and session refuses that.
type front struct {
	net.Conn
	server *Server
	who    string     // whose connection it counts as
	user   string     // at a Unix socket
	client netip.Addr // zero at a Unix socket

	in      *bufio.Reader
	mode    mode
	line    string // the command, without its CRLF
	pending []byte // of a command, that did not fit into a read
	chunk   uint64 // octets that are left of a BDAT
	junk    int    // commands
	began   time.Time
	taken   int64 // octets of the content
	state   int   // of the end mark, see endMark
	cr      bool
	end     error // after which nothing is read

	mu    sync.Mutex
	shut  bool
	reply func(error) // is told what became of the next reply
}

type mode int

const (
	commands mode = iota
	data
	chunk
)

func (f *front) begin() { f.in = bufio.NewReaderSize(f.Conn, 32<<10) }

// Read implements net.Conn for go-smtp.
func (f *front) Read(b []byte) (int, error) {
	if f.end != nil {
		return 0, f.end
	}
	if len(f.pending) > 0 {
		n := copy(b, f.pending)
		f.pending = f.pending[n:]
		return n, nil
	}
	switch f.mode {
	case data:
		return f.content(b)
	case chunk:
		if f.chunk > 0 {
			return f.piece(b)
		}
		f.mode = commands
	}
	return f.command(b)
}

// command reads one line. Its deadline is that of the whole line, so nobody stays by
// sending an octet now and then.
func (f *front) command(b []byte) (int, error) {
	f.Conn.SetReadDeadline(time.Now().Add(f.server.cfg.Timeout))
	if f.server.stopping.Load() {
		return f.refuse(f.server.closing(), "")
	}
	line, err := f.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxCommand:
		return f.refuse("500 5.5.2 line is too long", "command line too long")
	case errors.Is(err, os.ErrDeadlineExceeded) && f.server.stopping.Load():
		return f.refuse(f.server.closing(), "")
	case err != nil:
		f.end = err
		return 0, err
	}
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok {
		return f.refuse("550 5.5.2 bare <LF> received", "bare LF")
	}
	if i := bytes.IndexAny(text, "\r\x00"); i >= 0 {
		return f.refuse("550 5.5.2 bare <CR> or NUL received", "bare CR or NUL")
	}
	f.line = string(text)
	verb, rest, _ := strings.Cut(f.line, " ")
	switch strings.ToUpper(verb) {
	case "BDAT":
		f.chunk, f.mode, f.began, f.taken = announced(rest), chunk, time.Now(), 0
	case "MAIL", "RCPT", "DATA", "QUIT":
	case "CONNECT", "GET", "POST": // Postfix's smtpd_forbidden_commands
		return f.refuse("221 2.7.0 this is SMTP", "HTTP")
	default:
		if f.junk++; f.junk > maxJunk {
			return f.refuse("421 4.7.0 too many commands", "too many commands")
		}
	}
	n := copy(b, line)
	f.pending = append([]byte(nil), line[n:]...)
	return n, nil
}

// announced is the size of a BDAT chunk as go-smtp reads it: if it finds no size, no chunk
// follows.
func announced(args string) uint64 {
	words := strings.Fields(args)
	if len(words) == 0 || len(words) > 2 || len(words) == 2 && !strings.EqualFold(words[1], "LAST") {
		return 0
	}
	n, err := strconv.ParseUint(words[0], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// wait reads what there is of content, with a deadline for the next octet and one for all.
func (f *front) wait() error {
	for f.in.Buffered() == 0 {
		now, timeout := time.Now(), f.server.cfg.Timeout
		whole := f.began.Add(timeout + time.Duration(f.taken/minRate)*time.Second)
		next := now.Add(timeout)
		if whole.Before(next) {
			next = whole
		}
		f.Conn.SetReadDeadline(next)
		_, err := f.in.Peek(1)
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(next):
			// wake has set it: the message in hand may come to its end.
		default:
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // or go-smtp takes a BDAT that was cut for a whole one
			}
			f.end = err
			return err
		}
	}
	return nil
}

// piece reads of a BDAT chunk.
func (f *front) piece(b []byte) (int, error) {
	if err := f.wait(); err != nil {
		return 0, err
	}
	n, err := f.in.Read(b[:min(uint64(len(b)), f.chunk)])
	f.chunk -= uint64(n)
	f.taken += int64(n)
	return n, err
}

// endMark ends DATA.
const endMark = "\r\n.\r\n"

// content reads of DATA, up to its end.
func (f *front) content(b []byte) (int, error) {
	if err := f.wait(); err != nil {
		return 0, err
	}
	if most := 2*int64(f.server.cfg.MaxMessageSize) + 1<<20; f.taken > most {
		return f.refuse("552 5.3.4 message is too large", "endless message")
	}
	got, _ := f.in.Peek(min(f.in.Buffered(), len(b)))
	for i, c := range got {
		if f.cr != (c == '\n') {
			what := "<LF>"
			if f.cr {
				what = "<CR>"
			}
			return f.refuse("550 5.5.2 bare "+what+" received", "bare "+what)
		}
		f.cr = c == '\r'
		// The state is how much of the mark has come; a CR begins it anew.
		switch {
		case c == endMark[f.state]:
			f.state++
		case c == '\r':
			f.state = 1
		default:
			f.state = 0
		}
		if f.state == len(endMark) {
			got = got[:i+1]
			f.mode = commands
			break
		}
	}
	n := copy(b, got)
	f.in.Discard(n)
	f.taken += int64(n)
	return n, nil
}

// refuse ends the connection with a last reply; why is for the log.
func (f *front) refuse(reply, why string) (int, error) {
	if why != "" {
		f.server.warn("refused "+why, "client of the inlet refused", "why", why, "from", f.who, "user", f.user)
		f.server.turned.Add(1)
	}
	f.Conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	f.Conn.Write([]byte(reply + "\r\n"))
	f.mu.Lock()
	f.shut = true
	f.mu.Unlock()
	f.end = io.EOF
	if f.mode == data {
		f.end = io.ErrUnexpectedEOF // no end of the message
	}
	return 0, f.end
}

// Write implements net.Conn for go-smtp, which writes a reply at a time.
func (f *front) Write(b []byte) (int, error) {
	f.mu.Lock()
	shut, told := f.shut, f.reply
	f.reply = nil
	f.mu.Unlock()
	if shut {
		return 0, net.ErrClosed
	}
	if bytes.HasPrefix(b, []byte("354 ")) {
		// The state is that at the beginning of a line: a dot there ends the message.
		f.mode, f.state, f.cr, f.began, f.taken = data, 2, false, time.Now(), 0
	}
	n, err := f.Conn.Write(b)
	if told != nil {
		if err != nil && n > 0 {
			err = errors.Join(wire.ErrCut, err)
		}
		told(err)
	}
	return n, err
}

// onReply has told called with what becomes of the reply to the message in hand.
func (f *front) onReply(told func(error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reply = told
}

// SetReadDeadline does nothing: Read has its own.
func (f *front) SetReadDeadline(time.Time) error { return nil }

// wake ends a wait for the next command.
func (f *front) wake() { f.Conn.SetReadDeadline(time.Now()) }

// Close implements net.Conn. A reply that was not written by now will not be.
func (f *front) Close() error {
	err := f.Conn.Close()
	f.mu.Lock()
	told := f.reply
	f.reply, f.shut = nil, true
	f.mu.Unlock()
	if told != nil {
		told(net.ErrClosed)
	}
	f.server.left(f)
	return err
}

// loopback is the address that a client counts as: a Unix socket is of this host.
func (f *front) loopback() netip.Addr {
	if f.client.IsValid() {
		return f.client
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
