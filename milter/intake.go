package milter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/milter/classify"
	"github.com/millrace/millrace/milter/wire"
)

// intake is one message from its header to its verdict, whoever brings it: a session of
// the MTA's, or a Submission of package inlet. What both ask stands here, once: whether the
// message is bulk, what keeps bulk out of the spool, what became of the commit, and the
// words of the log.
type intake struct {
	server *Server
	m      *message
	d      classify.Decision
	upload *upload // nil unless the message in hand goes into the spool
}

// failed is the verdict word for bulk that cannot be spooled now: on_failure says what
// becomes of it.
const failed = "failure"

// obstacle says what keeps bulk out of the spool whatever it contains: the word of the
// verdict, observe, leave or failed, and why. It is "" if there is none.
func (t *intake) obstacle(now time.Time) (verdict, reason string) {
	s, cfg := t.server, t.m.setup.cfg
	if cfg.Milter.Mode != config.Divert || t.draining(now) {
		return "observe", t.d.Reason
	}
	if silence := s.spool.AgentSilence(now); silence > cfg.Milter.AgentGrace {
		if s.silent.pass(now) {
			s.log.Warn("agent gives no sign of life, leaving mail with the host", "silence", silence.Round(time.Second).String())
		}
		return "leave", "agent is silent"
	}
	if err := s.spool.Room(); err != nil {
		if s.full.pass(now) {
			s.log.Warn("spool takes no mail", "err", err)
		}
		return failed, err.Error()
	}
	if s.slow.standing(now) {
		return failed, "spool was too slow a moment ago"
	}
	return "", ""
}

// draining says, and tells now and then, that the spool takes nothing more.
func (t *intake) draining(now time.Time) bool {
	if !t.server.spool.Draining(now) {
		return false
	}
	if t.server.drains.pass(now) {
		t.server.log.Warn("draining: bulk mail stays with the host until millrace drain --end")
	}
	return true
}

// commit ends the upload and waits until the message is durable. Without a receipt,
// verdict and reason are as for obstacle.
func (t *intake) commit() (receipt Receipt, verdict, reason string) {
	u := t.upload
	t.upload = nil
	if t.draining(time.Now()) {
		u.giveUp(errDraining)
		return nil, "leave", errDraining.Error()
	}
	receipt, err := u.finish()
	if err == nil {
		return receipt, "", ""
	}
	s, now := t.server, time.Now()
	if errors.Is(err, errBusy) && s.busy.pass(now) {
		s.log.Warn("leaving large messages with the host, too many arrive at the same time", "max_bodies", cap(s.bodies))
	}
	if _, ok := errors.AsType[unfit](err); ok {
		return nil, "leave", err.Error()
	}
	if slow(err) {
		s.slow.begin(now)
	}
	if s.full.pass(now) {
		s.log.Warn("spool takes no mail", "err", err)
	}
	return nil, failed, err.Error()
}

// told returns what must be called once it is known whether the other side heard that a
// durable message is ours: with nil, with an error that wraps wire.ErrCut if it heard a
// part, with another if nothing. Only then the receipt is settled.
func (t *intake) told(ctx context.Context, r Receipt, qid, verdict string) func(error) {
	attrs := append(t.attrs(qid, verdict, t.d.Reason), slog.String("id", r.ID().String()))
	log, tally, n := t.server.log, &t.server.tally, t.nDiverted()
	return func(err error) {
		cut := errors.Is(err, wire.ErrCut)
		if err == nil || cut {
			level, msg := slog.LevelInfo, "verdict"
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
			tally.add(verdict, n)
			return
		}
		tally.add("lost", 0)
		attrs = append(attrs, slog.String("err", fmt.Sprintf("MTA was not told and keeps the message: %v", err)))
		if err := r.Void(); err != nil {
			attrs = append(attrs, slog.String("void", err.Error()))
		}
		log.LogAttrs(ctx, slog.LevelWarn, "verdict lost", attrs...)
	}
}

// kept counts a message that is with the host MTA.
func (t *intake) kept(verdict string) {
	t.server.tally.add(verdict, 0)
	if verdict == "leave" && t.d.OneFamily() {
		t.server.tally.addOneFamily(t.d.Evidence[0].Family)
	}
}

// sender is that of the message as it may stand in the log.
func (t *intake) sender() string {
	if t.m.setup.cfg.Log.Recipients {
		return t.m.Sender
	}
	return maillog.HiddenSender(t.m.Sender)
}

// nDiverted is how many recipients are to be diverted.
func (t *intake) nDiverted() (n int) {
	for _, d := range t.d.Divert {
		if d {
			n++
		}
	}
	return n
}

// attrs are the words of a verdict's log line. "millrace report" reads them.
func (t *intake) attrs(qid, verdict, reason string) []slog.Attr {
	n, domains := 0, ""
	if verdict != "leave" && verdict != "tempfail" {
		n, domains = t.nDiverted(), t.m.toDomains(t.d.Divert)
	}
	a := []slog.Attr{
		slog.String("qid", qid),
		slog.String("from", t.sender()),
		slog.Int("nrcpt", t.m.nrcpt),
		slog.Int("diverted", n),
		slog.String("verdict", verdict),
		slog.String("rule", t.d.Rule),
		slog.String("stream", t.d.Stream),
		slog.String("reason", reason),
	}
	if families := classify.Families(t.d.Evidence); families != "" {
		a = append(a, slog.String("evidence", families))
	}
	if domains != "" {
		a = append(a, slog.String("to_domains", domains))
	}
	return a
}
