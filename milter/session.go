package milter

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/milter/classify"
	"github.com/millrace/millrace/milter/wire"
)

// session is the backend of one MTA connection.
type session struct {
	id     uint64 // of the connection, for flowDelay
	conn   *wire.Conn
	client client

	discarded  time.Time // when the last message was, see flowDelay; zero: it was not
	bareSender bool
	intake                // its m is nil between messages
	report     *gathering // nil unless it stays with the host, and may be a report
}

var _ wire.Handler = (*session)(nil)

// Connect notes the SMTP client.
func (s *session) Connect(c wire.Client) { s.client = newClient(c) }

// Helo notes the client's name for itself.
func (s *session) Helo(name string) { s.client.helo = name }

// Mail begins a message.
func (s *session) Mail(from string, args []string) {
	s.resumed(time.Now())
	addr, bare := address(from)
	s.bareSender = bare
	s.m, s.d = &message{setup: s.server.setup.Load()}, classify.Decision{}
	s.m.Sender, s.m.Args, s.m.Arrived = addr, args, time.Now()
	s.m.Client = s.client.addr
	s.m.AuthUser = s.conn.Macro("auth_authen")
	s.m.Daemon = s.conn.Macro("daemon_name")
}

// Rcpt adds a recipient, with the transport that the MTA chose for it.
func (s *session) Rcpt(to string, args []string) {
	addr, _ := address(to)
	s.m.addRecipient(to, classify.Recipient{
		Address: addr, Args: args,
		Mailer: s.conn.RcptMacro("rcpt_mailer"), Host: s.conn.RcptMacro("rcpt_host"),
	})
}

// Header adds a field; wire bounds how much of them there is.
func (s *session) Header(name, value string) {
	s.m.Header = append(s.m.Header, classify.Field{Name: name, Value: value})
}

// EndOfHeaders decides. Everything that can be known to keep the mail with the
// host is looked at here, before the body is asked for.
func (s *session) EndOfHeaders(ctx context.Context) wire.Verdict {
	m := s.m
	cfg := m.setup.cfg
	switch {
	case m.tooBig:
		return s.leave("envelope is too large to hold")
	case s.conn.HeaderCut():
		return s.leave("header is too large to hold")
	}
	m.finish(s.client, s.bareSender)
	s.d = m.setup.classifier.Decide(&m.Message)
	if s.d.Divert == nil {
		if r := s.server.reports; r != nil && cfg.Feedback.Read {
			if s.report = r.gather(m.Header, time.Now()); s.report != nil {
				return wire.Verdict{Action: wire.Continue}
			}
		}
		return s.leave(s.d.Reason)
	}
	if !m.sameFate(s.d.Divert) {
		return s.leave("recipient given twice, not remote both times")
	}
	if !s.conn.ExactHeaders() {
		return s.leave("MTA does not give header fields as they are")
	}
	if s.removal() == impossible {
		return s.leave("MTA does not let recipients be deleted")
	}
	most := int64(cfg.Milter.MaxMessageSize)
	if most > 0 && declaredSize(m.Args) > most {
		return s.leave(errTooBig.Error())
	}
	content, err := s.head(s.server.buffer(), most)
	defer func() {
		if s.upload == nil {
			s.server.recycle(content)
		}
	}()
	if err != nil {
		return s.leave(err.Error())
	}
	switch verdict, reason := s.obstacle(time.Now()); verdict {
	case "":
	case failed:
		return s.failure(reason)
	default:
		return s.end(verdict, reason, wire.Verdict{Action: wire.Accept})
	}
	s.upload = newUpload(ctx, s.server, m.envelope(s.client, s.conn.Macro("i"), s.conn.Macro("j"), protocol(s.conn.Macro("tls_version") != "", m.AuthUser != ""), &s.d), content, most)
	return wire.Verdict{Action: wire.Continue}
}

// head puts the header together as it goes to the spool, of at most so many octets
// (0: any number). An error says why the mail must stay.
func (s *session) head(b []byte, most int64) ([]byte, error) {
	fields := s.m.Header
	if s.sendmail() {
		missing, err := missingFields(s.m.Header, s.conn.Macro("i"), s.conn.Macro("j"), s.m.Arrived)
		if err != nil {
			return b, err
		}
		b = append(b, missing...)
		fields = withoutBcc(fields)
	}
	b, err := appendHead(b, fields)
	if err == nil && most > 0 && int64(len(b)) > most {
		err = errTooBig
	}
	return b, err
}

// Body passes a piece of the body on.
func (s *session) Body(chunk []byte) {
	switch {
	case s.upload != nil:
		s.upload.write(chunk)
	case s.report != nil:
		s.report.write(chunk)
	}
}

// DrainSettles is how long after a drain began the last message may still come into
// the spool: one whose commit was under way.
const DrainSettles = commitTime + time.Second

// EndOfMessage waits for the commit and prepares the verdict. One that may be a report stays
// with the host as it would have without its body.
func (s *session) EndOfMessage(context.Context) wire.Verdict {
	if s.report != nil {
		s.report.end(&s.m.setup.keys)
		s.report = nil
		return s.leave(s.d.Reason)
	}
	receipt, verdict, reason := s.commit()
	switch {
	case receipt != nil:
		return s.diverted(receipt)
	case verdict == failed:
		return s.failure(reason)
	}
	return s.leave(reason)
}

// Abort forgets the message in hand.
func (s *session) Abort() {
	if s.upload != nil {
		s.upload.giveUp(errors.New("message aborted by the MTA"))
	}
	if s.report != nil {
		s.report.drop()
	}
	s.upload, s.report, s.m = nil, nil, nil
}

// Close has nothing left to do: wire aborts what is in hand.
func (s *session) Close() {}
