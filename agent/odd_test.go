package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// hours makes every retry late, so that what arrives did so in its first delivery, or was
// brought forward.
func hours(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} }

// far is a receiver for far.test.
func far(b sink.Behaviour) sink.Provider {
	return sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: b}
}

// sendMany sends n messages of a stream to far.test.
func (s *stage) sendMany(n int, stream string) {
	for i := range n {
		s.send(spool.Envelope{Sender: stream + "@news.test", Stream: stream}, letter, fmt.Sprintf("%s%d@far.test", stream, i))
	}
}

// A better mail exchanger that is in trouble, wherever in the dialogue, keeps no mail from a
// worse one that is well.
func TestNextHostTakesTheMailInTheSameDelivery(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]sink.Behaviour{
		"greeting": {Trouble: sink.TroubleBanner}, "nolisting": {Trouble: sink.TroubleBanner, Say: map[sink.Cause]string{sink.CauseTrouble: "421 mx1.far.test Service not available"}},
		"EHLO": {Trouble: sink.TroubleEHLO}, "MAIL": {Trouble: sink.TroubleMail}, "RCPT": {Trouble: sink.TroubleRcpt}, "dot": {Trouble: sink.TroubleDot},
		"421 at MAIL": {Trouble: sink.TroubleMail, Say: map[sink.Cause]string{sink.CauseTrouble: "421 4.3.2 Maintenance"}},
		"421 at dot":  {Trouble: sink.TroubleDot, Say: map[sink.Cause]string{sink.CauseTrouble: "421 4.3.2 Maintenance"}},
	} {
		for _, preference := range []uint16{10, 20} {
			t.Run(fmt.Sprint(name, preference), func(t *testing.T) {
				t.Parallel()
				p := far(sink.Behaviour{})
				p.Host = []sink.Host{{Name: "mx1.far.test", Preference: 10}, {Name: "mx2.far.test", Preference: preference}}
				s := newStage(t, hours, p)
				if err := s.net.Change("mx1.far.test", func(x *sink.Behaviour) { *x = b }); err != nil {
					t.Fatal(err)
				}
				s.start()
				s.sendMany(20, "a")
				s.until("all delivered", func() bool { return len(s.at("far")) == 20 })
			})
		}
	}
}

// A host that closes in place of the reply to the dot, each time, may have taken the mail: all
// the same the next one gets it, as with smtp(8).
func TestNextHostTakesWhatIsInDoubt(t *testing.T) {
	t.Parallel()
	p := far(sink.Behaviour{})
	p.Host = []sink.Host{{Name: "mx1.far.test", Preference: 10}, {Name: "mx2.far.test", Preference: 20}}
	s := newStage(t, hours, p)
	if err := s.net.Change("mx1.far.test", func(x *sink.Behaviour) { x.Drop = 1 }); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.sendMany(20, "a")
	s.until("all delivered", func() bool { return len(s.at("far")) == 20 && s.empty() })
}

// What a host defers that takes other mail goes to the next one, in the same delivery; when it
// takes none any more, all goes there.
func TestNextHostTakesWhatOneDefersAlone(t *testing.T) {
	t.Parallel()
	for _, at := range []sink.Stage{sink.TroubleMail, sink.TroubleRcpt, sink.TroubleDot} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			p := far(sink.Behaviour{})
			p.Host = []sink.Host{{Name: "mx1.far.test", Preference: 10}, {Name: "mx2.far.test", Preference: 20}}
			s := newStage(t, hours, p)
			if err := s.net.Change("mx1.far.test", func(x *sink.Behaviour) { x.Trouble, x.Senders = at, "bad" }); err != nil {
				t.Fatal(err)
			}
			s.start()
			n := 0
			for range 5 { // one at a time, so that mail is always taken in between
				for _, stream := range []string{"good", "bad"} {
					s.sendMany(1, stream)
					n++
					s.until("delivered", func() bool { return len(s.at("far")) == n && s.empty() })
				}
			}
			taken := func(host string) (n int) {
				for _, x := range s.net.Stats().Hosts {
					if x.Host == host {
						n += int(x.Messages)
					}
				}
				return n
			}
			if first, second := taken("mx1.far.test"), taken("mx2.far.test"); first != 5 || second != 5 {
				t.Errorf("%d and %d messages", first, second)
			}
			if err := s.net.Change("mx1.far.test", func(x *sink.Behaviour) { x.Senders = "" }); err != nil {
				t.Fatal(err)
			}
			refused := func() (n int64) {
				for _, x := range s.net.Stats().Hosts {
					n += x.Refused[sink.CauseTrouble]
				}
				return n
			}
			s.sendMany(20, "good")
			s.until("all delivered", func() bool { return len(s.at("far")) == n+20 && s.empty() })
			before := refused()
			s.sendMany(200, "good")
			s.until("all delivered", func() bool { return len(s.at("far")) == n+220 && s.empty() })
			if x := refused() - before; x > 60 { // those of sessions that were up
				t.Errorf("%d of 200 were refused: the first host is asked for each", x)
			}
		})
	}
}

// What reads as a throttle, as distrust or as greylisting goes to no other host.
func TestWhatIsAboutUsGoesNowhereElse(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"450 4.7.1 Greylisted, try again later", "451 4.7.1 Rate limit exceeded", "450 4.7.1 Your IP is listed at blocklist.example"} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			p := far(sink.Behaviour{})
			p.Host = []sink.Host{{Name: "mx1.far.test", Preference: 10}, {Name: "mx2.far.test", Preference: 20}}
			s := newStage(t, hours, p)
			if err := s.net.Change("mx1.far.test", func(x *sink.Behaviour) {
				x.Trouble, x.Say = sink.TroubleRcpt, map[sink.Cause]string{sink.CauseTrouble: reply}
			}); err != nil {
				t.Fatal(err)
			}
			s.start()
			s.sendMany(1, "a")
			s.until("deferred", func() bool { return s.status().Deferred == 1 })
			if st := s.net.Stats(); st.Provider("far").Messages != 0 {
				t.Error("it went to the next host")
			}
		})
	}
}

// CHUNKING that is announced in vain costs no message its delivery.
func TestBDATThatIsNotKnownIsFollowedByDATA(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"500 5.5.1 unknown command", "503 5.5.1 bad sequence", "504 5.5.4 what?", "close"} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, func(c *config.Config) {
				hours(c)
				if reply == "close" { // it may have been accepted: a retry
					c.General.Retry[0] = 100 * time.Millisecond
				}
			}, far(sink.Behaviour{Chunking: true, BDAT: reply}))
			s.start()
			s.sendMany(30, "a")
			s.until("all delivered", func() bool { return len(s.at("far")) == 30 && s.empty() })
			if n := len(s.at("host")); n != 0 {
				t.Errorf("%d bounces", n)
			}
		})
	}
}

// Recipients past the number that a receiver takes go in the next transaction, and the
// messages after it are cut to measure.
func TestTooManyRecipientsGoInTheNextTransaction(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"552 5.5.3 Too many recipients", "452 4.5.3 Too many recipients", "550 5.5.3 no more", "452 maximum recipients reached", "421 4.5.3 Too many recipients"} {
		t.Run(reply, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, func(c *config.Config) { hours(c); c.General.MaxSessions = 1 }, far(sink.Behaviour{
				MaxRecipients: 4, Say: map[sink.Cause]string{sink.CauseRecipients: reply},
			}))
			s.start()
			const messages, recipients = 5, 18
			s.sendWide(messages, recipients)
			s.until("all delivered", func() bool { return len(s.at("far")) == messages*recipients && s.empty() })
			st := s.net.Stats()
			if n := st.Provider("far").Refused[sink.CauseRecipients]; n > recipients {
				t.Errorf("%d refused: the number was not learned", n)
			}
			if n := len(s.at("host")); n != 0 {
				t.Errorf("%d bounces", n)
			}
		})
	}
}

// sendWide sends messages with several recipients each.
func (s *stage) sendWide(messages, recipients int) {
	for i := range messages {
		var to []string
		for j := range recipients {
			to = append(to, fmt.Sprintf("u%d.%d@far.test", i, j))
		}
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, to...)
	}
}

// allAtOnce fails the test if a recipient was deferred or returned.
func (s *stage) allAtOnce() {
	s.t.Helper()
	if log := s.log.String(); strings.Contains(log, "status=deferred") || strings.Contains(log, "status=bounced") {
		s.t.Error("a message was deferred")
	}
}

// A receiver that takes so much on one connection and says so without closing it costs no
// message a try, nor the site its pace: the next connection goes on.
func TestConnectionThatTakesNoMoreIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cause     sink.Cause
		reply     string
		behaviour sink.Behaviour
	}{
		{sink.CauseRecipients, "452 4.5.3 Too many recipients", sink.Behaviour{SessionRecipients: 5}},
		{sink.CauseRecipients, "552 5.5.3 Too many recipients", sink.Behaviour{SessionRecipients: 5}},
		{sink.CauseRecipients, "452 maximum recipients reached", sink.Behaviour{SessionRecipients: 5}},
		{sink.CauseRecipients, "421 4.5.3 Too many recipients", sink.Behaviour{SessionRecipients: 5}},
		{sink.CauseMessages, "450 4.7.0 Error: too many messages in this session", sink.Behaviour{MaxMessages: 5}},
		{sink.CauseMessages, "452 4.3.2 Maximum number of messages per connection exceeded", sink.Behaviour{MaxMessages: 5}},
	} {
		t.Run(tt.reply, func(t *testing.T) {
			t.Parallel()
			tt.behaviour.Say = map[sink.Cause]string{tt.cause: tt.reply}
			s := newStage(t, func(c *config.Config) { hours(c); c.General.MaxSessions = 1 }, far(tt.behaviour))
			s.start()
			s.sendMany(60, "a")
			s.until("all delivered", func() bool { return len(s.at("far")) == 60 && s.empty() })
			st := s.net.Stats()
			if n := st.Provider("far").Refused[tt.cause]; n > 3 {
				t.Errorf("%d refused: the number was not learned", n)
			}
			s.allAtOnce()
		})
	}
}

// So it is where a message has several recipients: those past the number of the connection go on
// the next one.
func TestRecipientsOfAConnectionThatTakesNoMoreGoOnAnother(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { hours(c); c.General.MaxSessions = 1 }, far(sink.Behaviour{SessionRecipients: 10}))
	s.start()
	const messages, recipients = 20, 7
	s.sendWide(messages, recipients)
	s.until("all delivered", func() bool { return len(s.at("far")) == messages*recipients && s.empty() })
	s.allAtOnce()
	st := s.net.Stats()
	if n := st.Provider("far").Refused[sink.CauseRecipients]; n > messages*recipients/4 {
		t.Errorf("%d refused: the number was not learned", n)
	}
}

// A receiver that takes nothing on a client's first connection gets its mail on the next.
func TestFirstConnectionThatTakesNothingIsFollowedByAnother(t *testing.T) {
	t.Parallel()
	s := newStage(t, hours, far(sink.Behaviour{Screen: true}))
	s.start()
	s.sendMany(100, "a")
	s.until("all delivered", func() bool { return len(s.at("far")) == 100 && s.empty() })
	st := s.net.Stats()
	if n := st.Provider("far").Refused[sink.CauseScreen]; n > 40 {
		t.Errorf("%d refused", n)
	}
}

// Trouble of a whole site costs its backlog few tries, and is over when it is over.
func TestTroubleOfASiteSpendsNoBacklog(t *testing.T) {
	t.Parallel()
	for _, at := range []sink.Stage{sink.TroubleMail, sink.TroubleRcpt, sink.TroubleDot} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			p := far(sink.Behaviour{Trouble: at})
			p.Hosts = 2
			s := newStage(t, hours, p)
			s.start()
			s.sendMany(300, "a")
			s.sendMany(300, "b")
			s.until("a second probe", func() bool { return strings.Count(s.log.String(), "status=deferred") > 3 && s.suspensions() >= 2 })
			if n := s.status().Deferred; n > 100 {
				t.Errorf("%d of 600 were deferred", n)
			}
			if err := s.net.Change("far", func(b *sink.Behaviour) { b.Trouble = "" }); err != nil {
				t.Fatal(err)
			}
			s.until("all delivered", func() bool { return len(s.at("far")) == 600 && s.empty() })
		})
	}
}

// suspensions is how often trouble suspended far.test.
func (s *stage) suspensions() (n int) {
	for _, site := range s.status().Sites {
		account, _ := s.agent.queue.Explain(site.Name)
		for _, x := range account.Changes {
			if strings.Contains(x.Cause, "all mail is deferred") {
				n++
			}
		}
	}
	return n
}

// Greylisting of each message suspends nothing: all get their first try.
func TestGreylistingSuspendsNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, far(sink.Behaviour{Greylist: time.Hour}))
	s.config.General.Retry = []time.Duration{time.Hour}
	s.start()
	s.sendMany(100, "a")
	s.until("all tried", func() bool { return s.status().Deferred == 100 })
	if s.suspensions() > 0 {
		t.Error("suspended")
	}
}

// One stream that a receiver refuses for ever slows no other down.
func TestAStreamThatIsRefusedSlowsNoOther(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{5 * time.Second}; c.General.MaxSessions = 4 }, far(sink.Behaviour{
		Trouble: sink.TroubleDot, Senders: "bad", Say: map[sink.Cause]string{sink.CauseTrouble: "451 4.7.0 Temporary failure, try again later"}, RTT: time.Millisecond,
	}))
	s.start()
	s.sendMany(100, "good")
	s.until("the first ones delivered", func() bool { return len(s.at("far")) == 100 })
	s.sendMany(10, "bad")
	s.sendMany(1400, "good")
	s.until("the good ones delivered", func() bool { return len(s.at("far")) == 1500 })
	for _, x := range s.status().Sites {
		if x.Pace > 0 {
			t.Errorf("the site has a pace of %v/s", x.Pace)
		}
	}
}

// Lines that are no replies are read over as smtp(8) does, and what is said in place of a
// reply is logged.
func TestLinesThatAreNoReplies(t *testing.T) {
	t.Parallel()
	s := newStage(t, hours, far(sink.Behaviour{Junk: true}))
	s.start()
	s.sendMany(10, "a")
	s.until("all delivered", func() bool { return len(s.at("far")) == 10 })
}
