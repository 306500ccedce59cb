package inlet

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/address"
	"github.com/millrace/millrace/milter/classify"
)

const (
	// maxJunk is how many commands that lead nowhere there may be between two messages
	// (Postfix's smtpd_junk_command_limit).
	maxJunk = 100
	// maxRefusals is how many commands may be refused between two messages (Postfix's
	// smtpd_hard_error_limit).
	maxRefusals = 20
)

// session is one client's dialogue.
type session struct {
	*conn
	helo     string // "": it has not said
	protocol string // as Received fields call it (RFC 3848)
	junk     int    // commands
	refusals int    // of commands

	tx   *transaction // nil between messages
	host *host        // nil: none is open
}

// transaction is the envelope in hand, and with BDAT what has come of the message.
type transaction struct {
	mail    string // the command as the client wrote it
	sender  string
	args    []string
	rcpts   []classify.Recipient
	held    []string // RCPT commands of rcpts
	theirs  bool     // the host MTA is to have it, whatever it contains
	live    bool     // the host MTA has all of that
	refused reply    // by the host MTA, of what was answered here; "": none
	content *content // of BDAT; nil: none
}

// apart is the reply to a recipient of whom the host MTA was not asked, as it has refused the
// message: its refusal, but where that is for good and another recipient's.
func (tx *transaction) apart() reply {
	if tx.live && tx.refused[0] == '5' {
		return replyApart
	}
	return tx.refused
}

// utf8 reports whether its client has asked for SMTPUTF8.
func (tx *transaction) utf8() bool {
	return slices.ContainsFunc(strings.Fields(tx.mail), func(w string) bool { return strings.EqualFold(w, "SMTPUTF8") })
}

// reply is one of one or more lines, joined by CRLF.
type reply string

func (r reply) ok() bool { return r[0] == '2' }

const (
	replyOK        reply = "250 2.0.0 Ok"
	replySender    reply = "250 2.1.0 Ok"
	replyRecipient reply = "250 2.1.5 Ok"
	replyData      reply = "354 End data with <CR><LF>.<CR><LF>"
	replyVerify    reply = "252 2.0.0 it will be seen when it is sent to"
	replyHello     reply = "503 5.5.1 send HELO or EHLO first"
	replyNested    reply = "503 5.5.1 nested MAIL command"
	replyNeedMail  reply = "503 5.5.1 need MAIL command"
	replyNeedRcpt  reply = "554 5.5.1 no valid recipients"
	replyInBDAT    reply = "503 5.5.1 a message is being sent by BDAT"
	replySyntax    reply = "501 5.5.4 syntax error in arguments"
	replyUnknown   reply = "500 5.5.2 command not recognized"
	replyMany      reply = "452 4.5.3 too many recipients"
	replyTooLarge  reply = "552 5.3.4 message is larger than SIZE says"
	replyBare      reply = "550 5.6.0 bare <CR> or <LF> in the message"
	replyBroken    reply = "451 4.3.0 message cannot be held now, try again later"
	replyFull      reply = "451 4.3.1 mail cannot be spooled now, try again later"
	replyApart     reply = "451 4.3.0 another recipient of this message has been refused, send to this one apart"
	replyUTF8      reply = "550 5.6.7 SMTPUTF8 is needed, and the host's MTA does not offer it"
	replyGone      reply = "451 4.4.2 the host's MTA is away, try again later"
	replyUnsure    reply = "451 4.4.2 the host's MTA has not answered, try again later"
)

// serve is the whole dialogue.
func (s *session) serve() {
	defer s.leave()
	s.guarded(s.dialogue)
}

func (s *session) dialogue() {
	s.say(reply("220 " + s.server.hostname + greeting))
	for {
		line, err := s.command()
		if err == nil {
			err = s.obey(line)
		}
		if err != nil {
			s.farewell(err)
			return
		}
	}
}

// greeting is what an inlet says of itself, and no host MTA.
const greeting = " ESMTP Millrace inlet"

// errQuit ends a session in peace: all is said.
var errQuit = errors.New("quit")

// obey does what one command asks for. After an error the session is over.
func (s *session) obey(line string) error {
	verb, args, _ := strings.Cut(line, " ")
	switch verb = strings.ToUpper(verb); verb {
	case "MAIL":
		return s.answer(s.mail(line))
	case "RCPT":
		return s.answer(s.rcpt(line))
	case "DATA":
		return s.data(args)
	case "BDAT":
		return s.bdat(args)
	case "QUIT":
		s.say("221 2.0.0 Bye")
		return errQuit
	case "CONNECT", "GET", "POST": // Postfix's smtpd_forbidden_commands
		return end{"221 2.7.0 this is SMTP", "HTTP"}
	}
	if s.junk++; s.junk > maxJunk {
		return end{"421 4.7.0 too many commands", "too many commands"}
	}
	switch verb {
	case "EHLO", "HELO":
		return s.answer(s.hello(verb, strings.TrimSpace(args)))
	case "RSET":
		s.reset()
		return s.answer(replyOK)
	case "NOOP":
		return s.answer(replyOK)
	case "VRFY":
		return s.answer(replyVerify)
	}
	return s.answer(replyUnknown)
}

// answer says the reply to a command. Too many refusals end the session; those of recipients
// that the client is to send to with the next message do not, be the limit ours or the MTA's.
func (s *session) answer(r reply) error {
	s.say(r)
	if r[0] > '3' && r != replyApart && !tooMany.MatchString(string(r)) {
		if s.refusals++; s.refusals > maxRefusals {
			return end{"421 4.7.0 too many errors", "too many errors"}
		}
	}
	return nil
}

func (s *session) hello(verb, name string) reply {
	if name == "" {
		return replySyntax
	}
	s.reset()
	s.helo, s.protocol = name, "SMTP"
	if verb == "HELO" {
		return reply("250 " + s.server.hostname)
	}
	s.protocol = "ESMTP"
	return reply("250-" + s.server.hostname + "\r\n250-PIPELINING\r\n250-SIZE " + strconv.FormatInt(int64(s.server.cfg.MaxMessageSize), 10) +
		"\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING")
}

// envelope says which reply keeps a command of the envelope from having any effect, "" if
// none does.
func (s *session) envelope() reply {
	switch {
	case s.helo == "":
		return replyHello
	case s.tx != nil && s.tx.content != nil:
		return replyInBDAT
	}
	return ""
}

// mail begins a message. What is never spooled (the null sender) or not understood here is
// the host MTA's to answer.
func (s *session) mail(line string) reply {
	if r := s.envelope(); r != "" {
		return r
	}
	if s.tx != nil {
		return replyNested
	}
	tx := &transaction{mail: line}
	sender, args, ok := path(line, "FROM:", mailArgument)
	if tx.sender, tx.args = sender, args; ok && address.Plain(sender) {
		if declared(args) > int64(s.server.cfg.MaxMessageSize) {
			return replyTooLarge
		}
		s.tx = tx
		return replySender
	}
	tx.theirs = true
	r := s.open(tx)
	if r.ok() {
		s.tx = tx
	}
	return r
}

// rcpt adds a recipient. It is answered here while all could be taken; from the first that
// could not on, the host MTA answers.
func (s *session) rcpt(line string) reply {
	tx := s.tx
	if r := s.envelope(); r != "" {
		return r
	}
	switch {
	case tx == nil:
		return replyNeedMail
	case len(tx.rcpts) >= s.server.maxRecipients():
		return replyMany
	case tx.refused != "":
		return tx.apart()
	}
	to, args, ok := path(line, "TO:", rcptArgument)
	if !tx.theirs && (!ok || !s.mayDivert(to)) {
		tx.theirs = true
	}
	r := replyRecipient
	if tx.theirs {
		if !tx.live {
			if r := s.open(tx); !r.ok() {
				return r
			}
		}
		if tx.refused != "" {
			return tx.apart()
		}
		if s.needsUTF8(tx, line) {
			return replyUTF8
		}
		r = s.ask(s.host.fit(line))
	}
	if r.ok() {
		tx.rcpts = append(tx.rcpts, classify.Recipient{Address: to, Args: args})
		tx.held = append(tx.held, line)
	}
	return r
}

// data takes a message by DATA.
func (s *session) data(args string) error {
	switch r := s.envelope(); {
	case r != "":
		return s.answer(r)
	case args != "":
		return s.answer(replySyntax)
	case s.tx == nil:
		return s.answer(replyNeedMail)
	case len(s.tx.rcpts) == 0:
		return s.answer(replyNeedRcpt)
	}
	s.say(replyData)
	m := newContent(s.server.dir, int64(s.server.cfg.MaxMessageSize))
	defer m.close()
	if err := s.conn.data(m); err != nil {
		return err
	}
	s.message(m)
	return nil
}

// chunkSize reads the arguments of BDAT.
func chunkSize(args string) (size int64, last, ok bool) {
	words := strings.Fields(args)
	if len(words) == 2 && strings.EqualFold(words[1], "LAST") {
		words, last = words[:1], true
	}
	if len(words) != 1 {
		return 0, false, false
	}
	n, err := strconv.ParseUint(words[0], 10, 63)
	return int64(n), last, err == nil
}

// bdat takes a chunk of a message, and the message with the last.
func (s *session) bdat(args string) error {
	size, last, ok := chunkSize(args)
	switch {
	case !ok: // where the chunk ends, nobody knows
		return end{"501 5.5.4 size of the chunk is not understood", "BDAT without a size"}
	case s.helo == "":
		return s.skip(size, replyHello)
	case s.tx == nil:
		return s.skip(size, replyNeedMail)
	case len(s.tx.rcpts) == 0:
		return s.skip(size, replyNeedRcpt)
	case s.tx.content == nil:
		s.tx.content = newContent(s.server.dir, int64(s.server.cfg.MaxMessageSize))
	}
	m := s.tx.content
	if size > m.max-m.size {
		s.server.refused.Add(1)
		s.reset()
		return s.skip(size, replyTooLarge)
	}
	if err := s.chunk(m, size); err != nil {
		return err
	}
	switch {
	case last:
		s.message(m)
	case m.err != nil: // the client need not send the rest
		s.refuse(m.err)
	default:
		s.say(reply("250 2.0.0 Ok: " + strconv.FormatInt(size, 10) + " octets"))
	}
	return nil
}

// skip refuses a chunk, which follows its command all the same.
func (s *session) skip(size int64, r reply) error {
	if size > 2*int64(s.server.cfg.MaxMessageSize)+1<<20 {
		return endEndless
	}
	if err := s.chunk(nil, size); err != nil {
		return err
	}
	return s.answer(r)
}

// refuse says why content cannot be had by anybody, and forgets the message.
func (s *session) refuse(err error) {
	s.server.refused.Add(1)
	switch {
	case errors.Is(err, errLarge):
		s.say(replyTooLarge)
	case errors.Is(err, errBare):
		s.say(replyBare)
	default:
		s.server.warn("broken", "message of a client of the inlet not taken", "err", err)
		s.say(replyBroken)
	}
	s.reset()
}

// message is a whole message: it goes into the spool, or the host MTA takes it, and whoever
// does gives the reply.
func (s *session) message(m *content) {
	if err := m.finish(); err != nil {
		s.refuse(err)
		return
	}
	s.flush()
	r, told := s.settle(m)
	s.say(r)
	if told != nil {
		told(s.flush())
	}
	if r.ok() {
		s.junk, s.refusals = 0, 0
	} else {
		s.server.refused.Add(1)
	}
	s.reset()
}

// reset forgets the message in hand.
func (s *session) reset() {
	if s.tx == nil {
		return
	}
	if s.tx.live && s.host != nil {
		if r, err := s.host.command("RSET"); err != nil || !r.ok() {
			s.host.close()
			s.host = nil
		}
	}
	if s.tx.content != nil {
		s.tx.content.close()
	}
	s.tx = nil
}

// farewell says the last word to a client.
func (s *session) farewell(err error) {
	last, ok := errors.AsType[end](err)
	if !ok {
		s.flush()
		return // it has gone, or all is said
	}
	if last.why != "" {
		s.server.warn("refused "+last.why, "client of the inlet refused", "why", last.why, "from", s.RemoteAddr().String(), "user", s.user)
		s.server.turned.Add(1)
	}
	s.say(reply(last.reply))
	s.flush()
}

// leave closes what the session has.
func (s *session) leave() {
	if s.tx != nil && s.tx.content != nil {
		s.tx.content.close()
	}
	s.tx = nil
	if s.host != nil {
		s.host.quit()
	}
	s.Close()
}
