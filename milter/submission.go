package milter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/milter/classify"
)

// Submission is a message that a client of the inlet has handed over as a whole. The host
// MTA does not know of it.
type Submission struct {
	Sender     string // without angle brackets
	Args       []string
	Recipients []classify.Recipient // neither Mailer nor Host are known
	Arrived    time.Time
	Helo       string
	Protocol   string     // as Received fields call it (RFC 3848)
	Client     netip.Addr // zero: a Unix socket
	User       string     // of the client at a Unix socket, ""
	ID         string     // of the log
	By         string     // our host's name
	Head       []byte     // the header with its CRLFs, without the empty line
	// Body reads what follows the empty line, from its beginning. It ends in CRLF, and has
	// been looked at: it can leave unchanged.
	Body func() io.Reader
	Size int64 // octets of head, empty line and body
	Held bool  // Body reads from memory
	// Sign returns fields to stand on top, of a header and body that were taken; nil: none.
	Sign func(head []byte, body io.Reader) ([]byte, error)
}

// InletDaemon is what [[milter.rule]] daemon and scope call mail of the inlet.
const InletDaemon = "inlet"

// Submitted is what became of a Submission.
type Submitted struct {
	// Told is set if the message is durable in the spool: it must be called once, with nil
	// when the client has been told 250, with an error if it cannot have heard of it. The
	// agent takes the message then, or never.
	Told func(error)
	// Refused: the client shall come again (on_failure = "tempfail").
	Refused bool
	// Judged: rules and evidence have counted the message, and need not do so again.
	Judged bool
	Reason string
}

// MayDivert reports whether mail to an address could be taken at all. It is a first look,
// before the message is known: neither while the milter observes nor while the spool is drained.
func (s *Server) MayDivert(address string) bool {
	now := s.setup.Load()
	return now.cfg.Milter.Mode == config.Divert && now.classifier.MayBeRemote(address) && !s.spool.Draining(time.Now())
}

// Config is the configuration in force.
func (s *Server) Config() *config.Config { return s.setup.Load().cfg }

// Submit judges a message as EndOfHeaders does, and commits what is bulk as a whole to the
// spool. Without Told the message is nobody's yet but the client's: it goes to the host MTA.
func (s *Server) Submit(ctx context.Context, x *Submission) Submitted {
	m := &message{setup: s.setup.Load()}
	m.Sender, m.Args, m.Arrived, m.Inlet, m.Daemon = x.Sender, x.Args, x.Arrived, true, InletDaemon
	m.Client, m.AuthUser = x.Client, x.User
	for _, r := range x.Recipients {
		m.addRecipient("<"+r.Address+">", r)
	}
	t := intake{server: s, m: m}
	if m.tooBig {
		return Submitted{Reason: "envelope is too large to hold"}
	}
	most := int64(m.setup.cfg.Milter.MaxMessageSize)
	if most > 0 && x.Size > most {
		return Submitted{Reason: errTooBig.Error()}
	}
	verdict, reason := t.obstacle(time.Now())
	if verdict != "" && verdict != failed {
		return Submitted{Reason: reason} // the milter judges it, on its way
	}
	var err error
	if m.Header, err = Fields(x.Head); err != nil {
		return Submitted{Reason: err.Error()}
	}
	m.marks()
	t.d = m.setup.classifier.Decide(&m.Message)
	passed := Submitted{Judged: t.d.Judged, Reason: t.d.Reason}
	if t.d.Divert == nil {
		return passed
	}
	if verdict == failed {
		return t.unspooled(ctx, x, passed, reason)
	}
	head, err := t.head(x)
	if err != nil {
		passed.Reason = err.Error()
		return passed
	}
	c := client{name: "localhost", addr: x.Client, helo: x.Helo}
	t.upload = newUpload(ctx, s, m.envelope(c, x.ID, x.By, x.Protocol, &t.d), head, 0)
	t.upload.appends = &s.inlet
	t.upload.whole(x.Body(), x.Held)
	receipt, verdict, reason := t.commit()
	switch {
	case receipt != nil:
		return Submitted{Told: t.told(ctx, receipt, x.ID, InletDaemon), Judged: true, Reason: t.d.Reason}
	case verdict == failed:
		return t.unspooled(ctx, x, passed, reason)
	}
	passed.Reason = reason
	return passed
}

// WaitSubmitted waits for what calls of Submit have left behind: while a disk hangs they
// return, and their message is voided when it answers. No Submit may be running.
func (s *Server) WaitSubmitted() { s.inlet.Wait() }

// unspooled is the answer to bulk that cannot be spooled now.
func (t *intake) unspooled(ctx context.Context, x *Submission, passed Submitted, reason string) Submitted {
	passed.Reason = reason
	if t.m.setup.cfg.Milter.OnFailure == "tempfail" {
		passed.Refused = true
		t.server.tally.add("tempfail", 0)
		t.server.log.LogAttrs(ctx, slog.LevelInfo, "verdict", t.attrs(x.ID, "tempfail", reason)...)
	}
	return passed
}

// head is the header as it goes to the spool: what the host MTA would have added of Date
// and Message-ID on top, without Bcc.
func (t *intake) head(x *Submission) ([]byte, error) {
	missing, err := missingFields(t.m.Header, x.ID, x.By, x.Arrived)
	if err != nil {
		return nil, err
	}
	head, err := appendHead(append(t.server.buffer(), missing...), withoutBcc(t.m.Header))
	if err != nil || x.Sign == nil {
		return head, err
	}
	signature, err := x.Sign(head, x.Body())
	if err != nil {
		return nil, fmt.Errorf("cannot be signed: %w", err)
	}
	return append(signature, head...), nil
}

// Fields reads a header, whose lines end in CRLF, as the milter protocol would show it.
// An error says that it has a line that is no field.
func Fields(head []byte) ([]classify.Field, error) {
	var fields []classify.Field
	for len(head) > 0 {
		line, rest, ok := bytes.Cut(head, []byte("\r\n"))
		if !ok {
			return nil, errors.New("header has a line without an end")
		}
		head = rest
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			if len(fields) == 0 {
				return nil, errors.New("header begins with a folded line")
			}
			fields[len(fields)-1].Value += "\n" + string(line)
			continue
		}
		name, value, ok := strings.Cut(string(line), ":")
		if !ok || nameError(name) != nil {
			return nil, errors.New("header has a line that is no field")
		}
		fields = append(fields, classify.Field{Name: name, Value: value})
	}
	return fields, nil
}
