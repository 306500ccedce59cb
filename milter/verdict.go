package milter

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
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
	s.server.log.LogAttrs(s.conn.Context(), slog.LevelInfo, "verdict", s.attrs(s.conn.Macro("i"), verdict, reason)...)
	s.kept(verdict)
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
	told := s.told(s.conn.Context(), r, s.conn.Macro("i"), way.String())
	waits := way == discard && !s.m.Command && !s.sendmail()
	v.Written = func(err error) {
		if waits && (err == nil || errors.Is(err, wire.ErrCut)) {
			s.discarded = time.Now()
		}
		told(err)
	}
	s.m = nil
	return v
}
