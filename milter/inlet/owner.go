package inlet

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/milter"
)

// open replays the envelope to the host MTA. What the MTA refuses of what was answered 250
// is in tx.refused; else the reply is that to MAIL.
func (s *session) open(tx *transaction) reply {
	s.flush() // the client need not wait for what is answered; that it has gone is seen later
	lines := append([]string{tx.mail}, tx.held...)
	passTo := s.server.judge.Config().Inlet.PassTo
	if s.host != nil && s.host.at != passTo { // the configuration has changed since
		s.host.quit()
		s.host = nil
	}
	var replies []reply
	for {
		old := s.host != nil
		if !old {
			h, err := dial(s.server.abort, passTo, s.server.hostname)
			if err != nil {
				return s.away(err)
			}
			s.host = h
		}
		if s.needsUTF8(tx, strings.Join(lines, "")) {
			tx.refused = replyUTF8
			return replyUTF8
		}
		commands := make([]string, len(lines))
		for i, line := range lines {
			commands[i] = s.host.fit(line)
		}
		var err error
		if replies, err = s.host.commands(commands); err == nil {
			break
		}
		if !old {
			return s.away(err)
		}
		s.host.close() // one that was kept may have timed out: once more, anew
		s.host = nil
	}
	tx.live = replies[0].ok()
	if s.tx == nil {
		return replies[0]
	}
	for i, r := range replies {
		if !r.ok() {
			tx.refused = r
			if n := i - 1; n > 0 && tooMany.MatchString(string(r)) { // before it MAIL and n recipients
				s.server.limitRecipients(n)
			}
			break
		}
	}
	return replySender
}

// tooMany is a host MTA's reply to a recipient above its limit (RFC 5321 section 4.5.3.1.10,
// RFC 3463 section 3.6), with an enhanced code or without.
var tooMany = regexp.MustCompile(`^(?:45[0-9][ -]4\.5\.3\b|452[ -][^0-9])`)

// limitRecipients learns how many recipients the host MTA takes in one message, until the end.
// The first message that has more is told so too late, at its dot; from then on the client is
// told at RCPT, and sends the rest with another message.
func (s *Server) limitRecipients(n int) {
	if old := s.most.Swap(int64(n)); old != int64(n) {
		s.log.Warn("the host's MTA takes fewer recipients in a message than the inlet", "recipients", n, "remedy", fmt.Sprintf("write max_recipients = %d in [inlet]", n))
	}
}

// maxRecipients is how many recipients a message may have.
func (s *Server) maxRecipients() int {
	if n := int(s.most.Load()); n > 0 {
		return min(n, s.cfg.MaxRecipients)
	}
	return s.cfg.MaxRecipients
}

// needsUTF8 reports whether text, of an envelope or a header, keeps a message from the host MTA:
// its client has asked for SMTPUTF8, the text is not ASCII, and the MTA does not take such
// (RFC 6531 section 3.2).
func (s *session) needsUTF8(tx *transaction, text string) bool {
	return tx.utf8() && !s.host.offers["SMTPUTF8"] && !ascii(text)
}

// ask has the host MTA answer a command.
func (s *session) ask(line string) reply {
	s.flush()
	r, err := s.host.command(line)
	if err != nil {
		return s.away(err)
	}
	return r
}

// away ends the session with a host MTA that does not answer. What it was told of the
// message in hand is to be told to another.
func (s *session) away(err error) reply {
	s.server.warn("away", "the host's MTA is away, clients of the inlet are told to try again", "pass_to", s.server.judge.Config().Inlet.PassTo, "err", err)
	if s.host != nil {
		s.host.close()
		s.host = nil
	}
	if s.tx != nil {
		s.tx.live = false
	}
	return replyGone
}

// settle finds the one owner of a message. With told, that is the spool once the client has
// heard the reply.
func (s *session) settle(m *content) (r reply, told func(error)) {
	tx, id, arrived, judged := s.tx, s.server.id(), time.Now(), false
	if !tx.theirs {
		x := s.submit(m, id, arrived)
		switch {
		case x.Told != nil:
			s.server.spooled.Add(1)
			return reply("250 2.0.0 Ok: queued as " + id), x.Told
		case x.Refused:
			return replyFull, nil
		}
		judged = x.Judged
		s.server.log.Debug("passed to the host's MTA", "id", id, "reason", x.Reason)
	}
	if !tx.live && tx.refused == "" {
		if r := s.open(tx); !r.ok() {
			return r, nil
		}
	}
	if tx.refused != "" {
		return tx.refused, nil
	}
	return s.pass(m, &trace.Hop{Helo: s.helo, Client: s.client, By: s.server.hostname, Protocol: s.protocol, ID: id, At: arrived, Judged: judged}), nil
}

// guarded runs f and reports whether it came back. A panic over one message costs neither
// the other sessions nor the milter.
func (s *session) guarded(f func()) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			s.server.log.Error("panic over a message of the inlet", "panic", v, "stack", string(debug.Stack()))
			ok = false
		}
	}()
	f()
	return true
}

// submit offers a message to the spool. One over which it panics goes to the host MTA, as
// one of the milter's stays there.
func (s *session) submit(m *content, id string, arrived time.Time) (x milter.Submitted) {
	if !s.guarded(func() { x = s.judge(m, id, arrived) }) {
		x = milter.Submitted{Reason: "panic"}
	}
	return x
}

// bypasses is what keeps the inlet from spooling, as Options.Bypassed says, and logs it.
func (s *session) bypasses() string {
	why := s.server.bypassed()
	if why != "" {
		s.server.warn("bypassed "+why, "all mail of the inlet goes to the host's MTA", "why", why)
	}
	return why
}

// mayDivert reports whether mail to a recipient could be spooled. What could not is the host
// MTA's from here on, so its replies are to each recipient.
func (s *session) mayDivert(to string) bool {
	return s.server.judge.MayDivert(to) && s.bypasses() == ""
}

// judge is submit, unguarded.
func (s *session) judge(m *content, id string, arrived time.Time) milter.Submitted {
	if why := s.bypasses(); why != "" {
		return milter.Submitted{Reason: why}
	}
	if m.unfit != "" || m.head < 0 {
		return milter.Submitted{Reason: cmp.Or(m.unfit, "header is too large to judge")}
	}
	return s.server.judge.Submit(s.server.abort, &milter.Submission{
		Sender: s.tx.sender, Args: s.tx.args, Recipients: s.tx.rcpts, Arrived: arrived, Helo: s.helo, Protocol: s.protocol,
		Client: s.from(), User: s.user, ID: id, By: s.server.hostname,
		Head: m.mem[:m.head], Body: m.rest, Size: m.size, Held: m.file == nil,
		Sign: func(head []byte, body io.Reader) ([]byte, error) { return sign(s.server.judge.Config(), head, body) },
	})
}

// pass hands a message to the host MTA, whose reply is the client's.
func (s *session) pass(m *content, hop *trace.Hop) reply {
	if len(s.tx.rcpts) == 1 {
		hop.For = s.tx.rcpts[0].Address
	}
	if s.needsUTF8(s.tx, string(m.header())) {
		return replyUTF8
	}
	received := trace.Passed(hop, s.server.key)
	if len(m.mem) > 0 && (m.mem[0] == ' ' || m.mem[0] == '\t') {
		received = append(received, "\r\n"...) // this is text, and no more of our field
	}
	r, sent, err := s.host.data(bytes.NewReader(received), m.all())
	if err != nil {
		gone := s.away(err)
		if sent {
			s.server.unsure.Add(1)
			s.server.log.Log(context.Background(), slog.LevelWarn, "the host's MTA has not answered after the end of a message: possible duplicate", "id", hop.ID, "err", err)
			return replyUnsure
		}
		return gone
	}
	if sent {
		s.tx.live = false // that was its last word
	}
	if r.ok() {
		s.server.passed.Add(1)
	}
	return r
}
