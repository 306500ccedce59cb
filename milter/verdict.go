package milter

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/milter/classify"
	"github.com/millrace/millrace/milter/wire"
)

// removal is how the MTA is made to forget what was diverted.
type removal int

const (
	impossible removal = iota
	delrcpt
	discard
)

func (w removal) String() string { return [...]string{"impossible", "delrcpt", "discard"}[w] }

// removal chooses by what is diverted, the setting and the MTA.
func (s *session) removal() removal {
	whole := !slices.Contains(s.d.Divert, false)
	switch v := s.m.setup.cfg.Milter.Verdict; {
	case s.m.Command:
		return discard // always whole; a deletion might miss
	case whole && (v == config.VerdictDiscard || v == config.VerdictAuto && s.sendmail()):
		return discard
	case s.conn.CanDelete():
		return delrcpt
	case whole:
		return discard
	}
	return impossible
}

// sendmail reports whether the MTA is Sendmail: its macro v is a bare version,
// "8.17.1", Postfix's begins with its name.
func (s *session) sendmail() bool {
	v := s.conn.Macro("v")
	return v != "" && v[0] >= '0' && v[0] <= '9'
}

// leave gives the message back to the MTA.
func (s *session) leave(reason string) wire.Verdict {
	return s.end("leave", reason, wire.Verdict{Action: wire.Accept})
}

// failure is the answer to bulk that cannot be spooled now.
func (s *session) failure(reason string) wire.Verdict {
	if s.m.setup.cfg.Milter.OnFailure == "tempfail" {
		return s.end("tempfail", reason, wire.Verdict{Action: wire.TempFail})
	}
	return s.leave(reason)
}

// end logs a verdict that leaves nothing in the spool.
func (s *session) end(verdict, reason string, v wire.Verdict) wire.Verdict {
	s.server.log.LogAttrs(s.conn.Context(), slog.LevelInfo, "verdict", s.attrs(verdict, reason)...)
	s.server.tally.add(verdict, 0)
	if verdict == "leave" && s.d.OneFamily() {
		s.server.tally.addOneFamily(s.d.Evidence[0].Family)
	}
	if v.Action == wire.Accept {
		s.server.host.note(s.m, nil)
	}
	s.m = nil
	return v
}

// diverted is the verdict over a message that is durable now. The receipt is
// settled only when it is known whether the MTA was told.
func (s *session) diverted(r Receipt) wire.Verdict {
	way := s.removal()
	v := wire.Verdict{Action: wire.Discard}
	if way == delrcpt {
		v = wire.Verdict{Action: wire.Accept, Delete: s.m.deletions(s.d.Divert)}
	}
	s.server.host.note(s.m, s.d.Divert)
	attrs := append(s.attrs(way.String(), s.d.Reason), slog.String("id", r.ID().String()))
	log, ctx, tally, n := s.server.log, s.conn.Context(), &s.server.tally, s.nDiverted()
	waits := way == discard && !s.m.Command && !s.sendmail()
	v.Written = func(err error) {
		cut := errors.Is(err, wire.ErrCut)
		if err == nil || cut {
			level, msg := slog.LevelInfo, "verdict"
			if waits {
				s.discarded = time.Now()
			}
			if cut {
				// Some recipients may be with us alone: all are sent.
				level, msg = slog.LevelWarn, "verdict cut"
				attrs = append(attrs, slog.String("err", fmt.Sprintf("possible duplicate, the MTA may keep some recipients: %v", err)))
			}
			if err := r.Release(); err != nil {
				// The MTA has forgotten the message: it must be sent. The spool
				// keeps what was not settled and gives it to the agent later.
				level = slog.LevelError
				attrs = append(attrs, slog.String("release", fmt.Sprintf("the agent will find it later: %v", err)))
			}
			log.LogAttrs(ctx, level, msg, attrs...)
			tally.add(way.String(), n)
			return
		}
		tally.add("lost", 0)
		attrs = append(attrs, slog.String("err", fmt.Sprintf("MTA was not told and keeps the message: %v", err)))
		if err := r.Void(); err != nil {
			attrs = append(attrs, slog.String("void", err.Error()))
		}
		log.LogAttrs(ctx, slog.LevelWarn, "verdict lost", attrs...)
	}
	s.m = nil
	return v
}

// sender is that of the message as it may stand in the log.
func (s *session) sender() string {
	if s.m.setup.cfg.Log.Recipients {
		return s.m.Sender
	}
	return maillog.HiddenSender(s.m.Sender)
}

// nDiverted is how many recipients are to be diverted.
func (s *session) nDiverted() (n int) {
	for _, d := range s.d.Divert {
		if d {
			n++
		}
	}
	return n
}

// attrs are the words of a verdict's log line. "millrace report" reads them.
func (s *session) attrs(verdict, reason string) []slog.Attr {
	n, domains := 0, ""
	if verdict != "leave" && verdict != "tempfail" {
		n, domains = s.nDiverted(), s.m.toDomains(s.d.Divert)
	}
	a := []slog.Attr{
		slog.String("qid", s.conn.Macro("i")),
		slog.String("from", s.sender()),
		slog.Int("nrcpt", s.m.nrcpt),
		slog.Int("diverted", n),
		slog.String("verdict", verdict),
		slog.String("rule", s.d.Rule),
		slog.String("stream", s.d.Stream),
		slog.String("reason", reason),
	}
	if families := classify.Families(s.d.Evidence); families != "" {
		a = append(a, slog.String("evidence", families))
	}
	if domains != "" {
		a = append(a, slog.String("to_domains", domains))
	}
	return a
}
