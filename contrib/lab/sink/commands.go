package sink

import (
	"bytes"
	"crypto/tls"
	"hash/fnv"
	"io"
	"strconv"
	"time"

	"github.com/millrace/millrace/contrib/lab/ledger"
)

// command does one command (RFC 5321, section 4.1). An error means the
// connection is gone.
func (s *session) command(line []byte) error {
	verb, rest, _ := bytes.Cut(line, []byte(" "))
	switch {
	case is(verb, "MAIL"):
		if s.mailFrom(rest); s.hung {
			return s.hang()
		}
	case is(verb, "RCPT"):
		s.rcptTo(rest)
	case is(verb, "DATA"):
		return s.data()
	case is(verb, "BDAT"):
		return s.bdat(rest)
	case is(verb, "EHLO"):
		s.clear()
		s.helo = string(rest)
		if b := s.behaviour(); s.troubled(b, TroubleEHLO) {
			s.refuse(b, CauseTrouble)
		} else {
			s.hello(b)
		}
	case is(verb, "HELO"):
		s.clear()
		s.helo = string(rest)
		s.reply("250 " + s.host.name)
	case is(verb, "RSET"):
		s.clear()
		s.reply("250 2.0.0 Ok")
	case is(verb, "NOOP"):
		s.reply("250 2.0.0 Ok")
	case is(verb, "QUIT"):
		s.reply("221 2.0.0 Bye")
		s.ending = true
	case is(verb, "STARTTLS"):
		return s.startTLS()
	case is(verb, "VRFY"):
		s.reply("252 2.0.0 Send some mail and see")
	default:
		s.reply("500 5.5.2 Command not recognised")
	}
	return nil
}

func is(verb []byte, name string) bool {
	return len(verb) == len(name) && bytes.EqualFold(verb, []byte(name))
}

// hello answers EHLO.
func (s *session) hello(b *Behaviour) {
	s.host.replies[2].Add(1)
	put := func(keyword string) { s.out = append(append(append(s.out, "250-"...), keyword...), '\r', '\n') }
	put(s.host.name)
	if b.Junk {
		s.out = append(s.out, "DEBUG: client is known\r\n"...)
	}
	for _, keyword := range []string{"PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"} {
		if !b.hides(keyword) {
			put(keyword)
		}
	}
	if !b.hides("SIZE") {
		put("SIZE " + strconv.FormatInt(b.MaxSize, 10)) // RFC 1870: 0 is no limit
	}
	if b.StartTLS && !s.tls {
		put("STARTTLS")
	}
	if b.Chunking {
		put("CHUNKING")
	}
	s.out = append(s.out, "250 HELP\r\n"...)
}

// clear ends the transaction.
func (s *session) clear() {
	s.mail, s.chunked = false, false
	s.arena, s.rcpts = s.arena[:0], s.rcpts[:0]
}

// store puts octets into the arena.
func (s *session) store(p []byte) span {
	from := len(s.arena)
	s.arena = append(s.arena, p...)
	return span{from, len(s.arena)}
}

func (s *session) bytes(p span) []byte { return s.arena[p.from:p.to:p.to] }

// troubled says whether there is trouble at a stage.
func (s *session) troubled(b *Behaviour, at Stage) bool {
	return b.Trouble == at && (b.Senders == "" || bytes.Contains(s.bytes(s.sender), []byte(b.Senders)))
}

func (s *session) mailFrom(rest []byte) {
	b := s.behaviour()
	address, args, ok := envelopePath(rest, "FROM:")
	switch {
	case s.turnedAway != "" && b.OverLimit != AtDot: // counted when it connected
		s.reply(b.reply(s.turnedAway))
		s.ending = true
		return
	case !ok:
		s.reply("501 5.5.4 Syntax: MAIL FROM:<address>")
		return
	case s.helo == "":
		s.reply("503 5.5.1 Say EHLO first")
		return
	case s.mail:
		s.reply("503 5.5.1 Nested MAIL")
		return
	case b.RequireTLS && !s.tls:
		s.refuse(b, CauseTLS)
		return
	case s.host.mails.hits(b.HangMail):
		s.hung = true
		return
	case b.MaxMessages > 0 && s.counted(b) >= b.MaxMessages:
		s.refuse(b, CauseMessages)
		return
	}
	if bad := s.mailArgument(b, args); bad != "" {
		s.reply(bad)
		return
	}
	s.tries++
	if s.tries == 1 {
		if c := s.host.begin(s, b); c != "" {
			s.refuse(b, c)
			s.ending = true
			return
		}
	}
	if b.RateAt != RateDot && s.host.rated(b) != "" {
		s.refuse(b, CauseRate)
		return
	}
	s.sender = s.store(address)
	if s.troubled(b, TroubleMail) {
		s.refuse(b, CauseTrouble)
		return
	}
	s.mail = true
	s.mailArgs = s.store(args)
	s.reply("250 2.1.0 Ok")
}

// counted is how many messages the connection has had, as max_messages counts them.
func (s *session) counted(b *Behaviour) int {
	if b.CountTries {
		return s.tries
	}
	return s.messages
}

// mailArgument gives the reply to a MAIL parameter that cannot be honoured.
func (s *session) mailArgument(b *Behaviour, args []byte) string {
	for len(args) > 0 {
		var arg []byte
		arg, args, _ = bytes.Cut(args, []byte(" "))
		key, value, _ := bytes.Cut(arg, []byte("="))
		var needs string
		switch {
		case len(arg) == 0:
			continue
		case is(key, "SIZE"):
			needs = "SIZE"
			size, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil {
				return "501 5.5.4 Bad SIZE"
			}
			if b.MaxSize > 0 && size > b.MaxSize {
				s.host.countRefusal(CauseSize)
				return "552 5.3.4 Message too big"
			}
		case is(key, "BODY"):
			needs = "8BITMIME"
		case is(key, "SMTPUTF8"):
			needs = "SMTPUTF8"
		case is(key, "RET"), is(key, "ENVID"):
			needs = "DSN"
		default:
			return "555 5.5.4 Parameter not recognised"
		}
		if b.hides(needs) {
			return "555 5.5.4 Parameter not offered"
		}
	}
	return ""
}

func (s *session) rcptTo(rest []byte) {
	b := s.behaviour()
	address, args, ok := envelopePath(rest, "TO:")
	switch {
	case !s.mail:
		s.reply("503 5.5.1 Need MAIL first")
		return
	case !ok || len(address) == 0:
		s.reply("501 5.5.4 Syntax: RCPT TO:<address>")
		return
	case len(args) > 0 && b.hides("DSN"):
		s.reply("555 5.5.4 Parameter not offered")
		return
	case s.troubled(b, TroubleRcpt):
		s.refuse(b, CauseTrouble)
		return
	case s.screened:
		s.refuse(b, CauseScreen)
		return
	case b.MaxRecipients > 0 && len(s.rcpts) >= b.MaxRecipients, b.SessionRecipients > 0 && s.taken >= b.SessionRecipients:
		s.refuse(b, CauseRecipients)
		return
	}
	domain := lowerDomain(address)
	if !s.host.provider.takes(domain) {
		s.reply("554 5.7.1 Relay access denied")
		s.host.countRefusal(CauseRelay)
		return
	}
	if b.OneDomain && len(s.rcpts) > 0 && !bytes.Equal(domain, lowerDomain(s.bytes(s.rcpts[0].address))) {
		s.refuse(b, CauseDomains)
		return
	}
	if c := s.mailbox(b, address); c != "" {
		s.refuse(b, c)
		return
	}
	s.taken++
	s.rcpts = append(s.rcpts, recipient{s.store(address), s.store(args)})
	s.reply("250 2.1.5 Ok")
}

// mailbox decides on one recipient by its address.
func (s *session) mailbox(b *Behaviour, address []byte) Cause {
	v := s.host.provider
	if b.PermShare > 0 || b.TempShare > 0 {
		key := s.hash('r', address)
		switch share := float64(key>>11) / (1 << 53); {
		case share < b.PermShare:
			s.internet().ledger.Refuse(address)
			return CausePerm
		case share < b.PermShare+b.TempShare:
			if b.TempTimes == 0 || v.tried(key, time.Now()).count <= b.TempTimes {
				return CauseTemp
			}
		}
	}
	if b.Greylist > 0 {
		now := time.Now()
		key := s.hash('g', s.bytes(s.sender), address)
		if now.Sub(v.tried(key, now).first) < b.Greylist {
			if b.Greylists == GreylistRestarts {
				v.restart(key, now)
			}
			if b.Greylists == GreylistWordless {
				return CauseTrouble
			}
			return CauseGreylist
		}
	}
	return ""
}

// hash is a seeded hash of addresses; kind keeps its uses apart.
func (s *session) hash(kind byte, parts ...[]byte) uint64 {
	h := fnv.New64a()
	h.Write(strconv.AppendUint([]byte{kind}, s.internet().options.Seed, 10))
	for _, p := range parts {
		h.Write([]byte{0})
		h.Write(p)
	}
	// FNV's upper bits hardly move for short input; this is the finish of
	// splitmix64, which spreads them.
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// data takes the message.
func (s *session) data() error {
	b := s.behaviour()
	if s.chunked {
		s.reply("503 5.5.1 DATA after BDAT")
		return nil
	}
	if len(s.rcpts) == 0 {
		if s.mail {
			s.reply("554 5.5.1 No valid recipients")
		} else {
			s.reply("503 5.5.1 Need RCPT first")
		}
		return nil
	}
	if s.host.datas.hits(b.HangData) {
		return s.hang()
	}
	s.reply("354 End data with <CR><LF>.<CR><LF>")
	s.begin(b)
	for {
		n, done := s.content.feed(s.buf[s.r:s.w])
		s.r += n
		if done {
			return s.finish()
		}
		if err := s.fill(); err != nil {
			return err
		}
	}
}

// begin makes ready for content.
func (s *session) begin(b *Behaviour) {
	s.digest.Reset()
	s.keep.Reset()
	s.content.reset(b.MaxLine)
}

// bdat takes a chunk (RFC 3030). It follows its command whatever is said to that.
func (s *session) bdat(rest []byte) error {
	b := s.behaviour()
	size, end, _ := bytes.Cut(rest, []byte(" "))
	last := is(end, "LAST")
	left, err := strconv.ParseUint(string(size), 10, 32)
	if err != nil || len(end) > 0 && !last {
		s.reply("501 5.5.4 Syntax: BDAT size [LAST]") // no telling where the chunk ends
		s.ending = true
		return nil
	}
	wanted := b.Chunking && len(s.rcpts) > 0
	if wanted && !s.chunked {
		if s.host.datas.hits(b.HangData) {
			return s.hang()
		}
		s.begin(b)
		s.chunked = true
	}
	for left > 0 {
		if s.r == s.w {
			if err := s.fill(); err != nil {
				return err
			}
		}
		n := int(min(left, uint64(s.w-s.r)))
		if wanted {
			s.content.chunk(s.buf[s.r : s.r+n])
		}
		s.r += n
		left -= uint64(n)
	}
	switch {
	case b.Chunking && b.BDAT == "silence":
		return s.hang()
	case b.Chunking && b.BDAT == "close":
		s.out, s.ending = s.out[:0], true
	case b.Chunking && b.BDAT != "":
		s.reply(b.BDAT)
		s.clear()
	case !b.Chunking:
		s.reply("502 5.5.1 Not offered")
	case !wanted:
		s.reply("503 5.5.1 Need RCPT first")
	case last:
		s.content.last()
		return s.finish()
	default:
		s.reply("250 2.0.0 Ok")
	}
	return nil
}

// finish decides on a message after its final dot or last chunk.
func (s *session) finish() error {
	b := s.behaviour()
	defer s.clear()
	if b.AcceptTime > 0 {
		if err := s.flush(); err != nil {
			return err
		}
		at := &s.host.provider.working
		pause(s.internet().closed, s.host.working(b, at.Add(1)))
		at.Add(-1)
	}
	switch {
	case s.turnedAway != "":
		s.reply(b.reply(s.turnedAway))
		s.ending = true
		return nil
	case s.content.bare:
		s.reply("554 5.6.0 Bare CR or LF in content")
		s.host.countRefusal(CauseContent)
		return nil
	case s.content.long:
		s.reply("554 5.6.0 Line too long")
		s.host.countRefusal(CauseContent)
		return nil
	case b.MaxSize > 0 && s.content.size > b.MaxSize:
		s.reply("552 5.3.4 Message too big")
		s.host.countRefusal(CauseSize)
		return nil
	case s.troubled(b, TroubleDot):
		s.refuse(b, CauseTrouble)
		return nil
	case b.RateAt == RateDot && s.host.rated(b) != "":
		s.refuse(b, CauseRate)
		return nil
	case s.host.dots.hits(b.HangDot):
		return s.hang()
	case s.host.drops.hits(b.Drop):
		s.host.countRefusal(CauseDropped)
		if s.host.droppedAccepts.hits(b.DropAccepted) {
			s.accept(true)
		}
		s.out = s.out[:0]
		s.ending = true
		return nil
	}
	s.accept(false)
	s.out = append(s.out, "250 2.0.0 Ok: queued as "...)
	s.out = strconv.AppendUint(s.out, s.number, 36)
	s.out = append(s.out, '.')
	s.out = strconv.AppendInt(s.out, int64(s.messages), 10)
	s.out = append(s.out, '\r', '\n')
	s.host.replies[2].Add(1)
	if b.MaxMessagesClose && s.counted(b) == b.MaxMessages {
		s.ending = true
	}
	return nil
}

// accept writes the message into the books. It comes before the reply, so that
// no client knows more than the ledger.
func (s *session) accept(unanswered bool) {
	id, sum := s.digest.Sum()
	s.list = s.list[:0]
	for _, r := range s.rcpts {
		s.list = append(s.list, s.bytes(r.address))
	}
	now := time.Now()
	n := s.internet()
	n.ledger.Add(&ledger.Message{
		ID: id, Sender: s.bytes(s.sender), Recipients: s.list, Hash: sum, Time: now, Place: s.host.place,
		Conn: s.number, Size: s.content.size, Above: s.digest.Above(), Unanswered: unanswered,
	})
	s.host.accepted(now, len(s.rcpts), s.content.size)
	s.messages++
	if n.options.Message != nil {
		n.options.Message(s.message())
	}
}

func (s *session) message() *Message {
	m := &Message{
		Provider: s.host.provider.name, Host: s.host.name, TLS: s.tls, Client: s.client(), Helo: s.helo,
		Sender: string(s.bytes(s.sender)), MailArgs: string(s.bytes(s.mailArgs)), Content: s.keep.Bytes(),
	}
	for _, r := range s.rcpts {
		m.Recipients = append(m.Recipients, Recipient{string(s.bytes(r.address)), string(s.bytes(r.args))})
	}
	return m
}

// startTLS does RFC 3207.
func (s *session) startTLS() error {
	b := s.behaviour()
	if !b.StartTLS || s.tls {
		s.reply("502 5.5.1 Not offered")
		return nil
	}
	ca, err := s.internet().ca()
	if err != nil {
		s.internet().log.Error("no certificate authority", "err", err)
		s.reply("454 4.7.0 TLS not available")
		return nil
	}
	s.reply("220 2.0.0 Go ahead")
	if err := s.flush(); err != nil {
		return err
	}
	s.r, s.w = 0, 0 // what came before the handshake was not protected
	if b.TLS == TLSSilent {
		return s.hang()
	}
	t := tls.Server(s.line, b.TLS.change(ca.config(s.host.name)))
	if err := t.Handshake(); err != nil {
		return err
	}
	if b.TLS == TLSMute {
		return io.EOF
	}
	s.conn, s.tls, s.helo = t, true, ""
	s.clear()
	return nil
}
