package inlet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter"
	"github.com/millrace/millrace/milter/classify"
)

// session is one client's dialogue. go-smtp calls from one goroutine, but for Data of BDAT,
// which Reset and Logout may come upon.
type session struct {
	server *Server
	conn   *smtp.Conn
	front  *front

	mu   sync.Mutex
	tx   *transaction // nil between messages
	host *host        // nil: none is open
}

// transaction is the envelope in hand.
type transaction struct {
	mail    string // the command as the client wrote it
	sender  string
	args    []string
	rcpts   []classify.Recipient
	held    []string        // RCPT commands that were answered here
	live    bool            // the host MTA has MAIL
	refused *smtp.SMTPError // by the host MTA, of what was answered here
}

func reply(code int, e smtp.EnhancedCode, text string) *smtp.SMTPError {
	return &smtp.SMTPError{Code: code, EnhancedCode: e, Message: text}
}

var (
	errNested  = reply(503, smtp.EnhancedCode{5, 5, 1}, "nested MAIL command")
	errMany    = reply(452, smtp.EnhancedCode{4, 5, 3}, "too many recipients")
	errGone    = reply(451, smtp.EnhancedCode{4, 4, 2}, "the host's MTA is away, try again later")
	errUnsure  = reply(451, smtp.EnhancedCode{4, 4, 2}, "the host's MTA has not answered, try again later")
	errFull    = reply(451, smtp.EnhancedCode{4, 3, 1}, "mail cannot be spooled now, try again later")
	errContent = reply(550, smtp.EnhancedCode{5, 6, 0}, "bare <CR> or <LF> in the message")
	errBroken  = reply(451, smtp.EnhancedCode{4, 3, 0}, "message did not come to its end")
)

// path takes the address and the arguments off a MAIL or RCPT command, as written.
func path(line string) (address string, args []string) {
	_, s, _ := strings.Cut(line, ":")
	s = strings.TrimSpace(s)
	quoted, end := false, -1
	for i := 0; i < len(s) && end < 0; i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted && s[0] == '<':
			end = i + 1
		case c == ' ' && s[0] != '<':
			end = i
		}
	}
	if end < 0 {
		end = len(s)
	}
	address = strings.TrimSuffix(strings.TrimPrefix(s[:end], "<"), ">")
	return address, strings.Fields(s[end:])
}

// Mail begins a message. go-smtp has checked the syntax.
func (s *session) Mail(string, *smtp.MailOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx != nil {
		return errNested
	}
	tx := &transaction{mail: s.front.line}
	tx.sender, tx.args = path(tx.mail)
	if tx.sender == "" { // mail that is never taken
		if err := s.open(tx); err != nil {
			return err
		}
	}
	s.tx = tx
	return nil
}

// Rcpt adds a recipient.
func (s *session) Rcpt(string, *smtp.RcptOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := s.tx
	if tx == nil {
		return errNested
	}
	if len(tx.rcpts) >= s.server.cfg.MaxRecipients {
		return errMany
	}
	line := s.front.line
	address, args := path(line)
	r := classify.Recipient{Address: address, Args: args}
	if !tx.live && s.server.judge.MayDivert(address) {
		tx.rcpts, tx.held = append(tx.rcpts, r), append(tx.held, line)
		return nil
	}
	if tx.refused != nil {
		return tx.refused
	}
	if !tx.live {
		if err := s.open(tx); err != nil {
			return err
		}
		if tx.refused != nil {
			return tx.refused
		}
	}
	got, err := s.host.command(line)
	if err != nil {
		return s.away(err)
	}
	if got.Code/100 != 2 {
		return got
	}
	tx.rcpts = append(tx.rcpts, r)
	return nil
}

// open replays the envelope to the host MTA, over a session of its own. What the MTA refuses
// of what was answered here stands in tx.refused; without that, an error is its reply to MAIL.
func (s *session) open(tx *transaction) error {
	commands := append([]string{tx.mail}, tx.held...)
	var replies []*smtp.SMTPError
	for {
		old := s.host != nil
		if !old {
			ctx, cancel := context.WithTimeout(context.Background(), dialTimeout+replyTimeout)
			h, err := dial(ctx, s.server.judge.Config().Inlet.PassTo, s.server.hostname)
			cancel()
			if err != nil {
				return s.away(err)
			}
			s.host = h
		}
		var err error
		if replies, err = s.host.commands(commands); err == nil {
			break
		}
		s.host.close()
		s.host = nil
		if !old { // a session that was kept may have timed out: once more, anew
			return s.away(err)
		}
	}
	for i, r := range replies {
		if r.Code/100 == 2 {
			continue
		}
		if i == 0 && len(tx.held) == 0 {
			return r
		}
		tx.refused = r
		break
	}
	tx.live = true
	return nil
}

// away ends the session with a host MTA that does not answer.
func (s *session) away(err error) error {
	s.server.warn("away", "the host's MTA is away, clients of the inlet are told to try again", "pass_to", s.server.judge.Config().Inlet.PassTo, "err", err)
	if s.host != nil {
		s.host.close()
		s.host = nil
	}
	return errGone
}

// Data takes the message, or has the host MTA take it.
func (s *session) Data(r io.Reader) error {
	s.mu.Lock()
	tx, h := s.tx, s.host
	s.mu.Unlock()
	if tx == nil {
		return errBroken
	}
	c, err := receive(r, s.server.dir)
	switch {
	case errors.Is(err, errBare):
		s.server.refused.Add(1)
		return errContent
	case err != nil:
		s.server.refused.Add(1)
		if e, ok := errors.AsType[*smtp.SMTPError](err); ok {
			return e // too large
		}
		s.server.warn("broken", "message of a client of the inlet not taken", "err", err)
		return errBroken
	}
	defer c.close()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx != tx || s.host != h {
		return errBroken
	}
	s.front.junk = 0
	id, arrived := s.server.id(), time.Now()
	judged := false
	if !tx.live {
		if why := s.server.bypassed(); why != "" {
			s.server.warn("bypassed", "all mail of the inlet goes to the host's MTA", "why", why)
		} else if c.head >= 0 {
			x := s.server.judge.Submit(context.Background(), &milter.Submission{
				Sender: tx.sender, Args: tx.args, Recipients: tx.rcpts, Arrived: arrived, Helo: s.conn.Hostname(),
				Client: s.front.loopback(), User: s.front.user, ID: id, By: s.server.hostname,
				Head: c.mem[:c.head], Body: c.rest(), Rewind: c.rest,
				Sign: func(head []byte, body io.Reader) ([]byte, error) { return sign(s.server.judge.Config(), head, body) },
			})
			switch {
			case x.Told != nil:
				s.server.spooled.Add(1)
				s.front.onReply(x.Told)
				return reply(250, smtp.EnhancedCode{2, 0, 0}, "Ok: queued as "+id)
			case x.Refused:
				s.server.refused.Add(1)
				return errFull
			}
			judged = x.Judged
			s.server.log.Debug("passed to the host's MTA", "id", id, "reason", x.Reason)
		}
		if err := s.open(tx); err != nil {
			s.server.refused.Add(1)
			return err
		}
	}
	if tx.refused != nil {
		s.server.refused.Add(1)
		return tx.refused
	}
	hop := trace.Hop{Helo: s.conn.Hostname(), Client: s.front.client, By: s.server.hostname, ID: id, At: arrived, Judged: judged}
	if len(tx.rcpts) == 1 {
		hop.For = tx.rcpts[0].Address
	}
	got, sent, err := s.host.data(bytes.NewReader(trace.Passed(&hop, s.server.key)), c.all())
	if err != nil {
		gone := s.away(err)
		s.server.refused.Add(1)
		if sent {
			s.server.unsure.Add(1)
			s.server.log.Log(context.Background(), slog.LevelWarn, "the host's MTA has not answered after the end of a message: possible duplicate", "id", id, "err", err)
			return errUnsure
		}
		return gone
	}
	if sent {
		tx.live = false // that was its last word
	}
	if got.Code/100 == 2 {
		s.server.passed.Add(1)
	} else {
		s.server.refused.Add(1)
	}
	return got
}

// Reset forgets the message in hand.
func (s *session) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx != nil && s.tx.live && s.host != nil {
		if r, err := s.host.command("RSET"); err != nil || r.Code != 250 {
			s.host.close()
			s.host = nil
		}
	}
	s.tx = nil
}

// Logout ends the session with the host MTA, too.
func (s *session) Logout() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = nil
	if s.host != nil {
		s.host.quit()
		s.host = nil
	}
	return nil
}
