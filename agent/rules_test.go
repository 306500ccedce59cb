package agent

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// shippedReplies are the rules of a configuration that says nothing about them.
func shippedReplies(t *testing.T) []config.Reply {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte("hostname = \"mail.example.com\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c.Replies
}

// provider is a receiver whose one host has a name that rules know.
func provider(name, host string, addr byte, b sink.Behaviour) sink.Provider {
	return sink.Provider{Name: name, Domains: []string{name + ".test"}, Behaviour: b,
		Host: []sink.Host{{Name: host, Addr: netip.AddrFrom4([4]byte{127, 98, 0, addr})}}}
}

func TestSuspensionThatAReceiverAsksForIsKept(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Replies = shippedReplies(t) },
		provider("yahoo", "mta5.am0.yahoodns.net", 1, sink.Behaviour{TempShare: 1, Say: map[sink.Cause]string{
			sink.CauseTemp: "421 4.7.0 [TSS05] Messages from 192.0.2.7 temporarily deferred due to user complaints"}}),
		sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	for i := range 50 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@yahoo.test", i), fmt.Sprintf("u%d@far.test", i))
	}
	s.until("the others get theirs", func() bool { return len(s.at("far")) == 50 })
	s.until("no session is left at the suspended site", func() bool {
		return slices.ContainsFunc(s.status().Sites, func(x control.Site) bool {
			return strings.Contains(x.Name, "yahoodns") && x.Sessions+x.Opening == 0 && x.Target == 0
		})
	})
	before := s.admitted("yahoo")
	s.until("the deferred come due", func() bool { st := s.status(); return st.Deferred == 0 && st.Waiting == 50 })
	if now := s.admitted("yahoo"); now != before {
		t.Errorf("%d connections while the site was suspended", now-before)
	}
	if !strings.Contains(s.log.String(), "is suspended until") {
		t.Error("the log says nothing of the suspension")
	}
}

// admitted is how many connections the agent has made to a provider so far. Its hosts accept
// them in turn, and may be slow to: one of the test's own tells that those before it, which
// the agent may have given up, are counted.
func (s *stage) admitted(provider string) int64 {
	s.t.Helper()
	for _, h := range s.net.Stats().Hosts {
		if h.Provider != provider {
			continue
		}
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(h.Addr), s.net.Port()).String())
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1)) // of its greeting
		c.Close()
		if err != nil {
			s.t.Fatal(err)
		}
		s.own++
	}
	return connections(s.net.Stats(), provider) - s.own
}

func connections(st sink.Stats, provider string) (n int64) {
	for _, h := range st.Hosts {
		if h.Provider == provider {
			n += h.Connections
		}
	}
	return n
}

func TestStreamThatIsNotAuthenticatedIsHeldAndTold(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Replies = shippedReplies(t)
		c.General.MaxSessions = 1
	}, provider("google", "aspmx.l.google.com", 2, sink.Behaviour{PermShare: 1, RTT: 20 * time.Millisecond, Say: map[sink.Cause]string{
		sink.CausePerm: "550 5.7.26 Your email has been blocked because the sender is unauthenticated."}}))
	s.start()
	for i := range 100 {
		s.send(spool.Envelope{Sender: "n@news.test", Stream: "bad"}, letter, fmt.Sprintf("u%d@google.test", i))
	}
	s.until("the stream is held", func() bool { return strings.Contains(s.log.String(), "stream bad is held") })
	s.until("nothing is under way", func() bool { return s.status().Active == 0 })
	if st := s.status(); st.Waiting < 50 {
		t.Errorf("%d of 100 left when the stream was held", st.Waiting)
	}
	list, err := s.admin().Streams(t.Context())
	if err != nil || !slices.ContainsFunc(list, func(x control.Stream) bool {
		return x.Name == "bad" && strings.Contains(x.Paused, "google-unauthenticated")
	}) {
		t.Errorf("streams %+v, %v", list, err)
	}
	// What the receiver says of other mail is its own affair.
	s.send(spool.Envelope{Sender: "n@news.test", Stream: "other"}, letter, "x@google.test")
	s.until("the other stream is tried", func() bool { return strings.Contains(s.log.String(), "<x@google.test>") })
}

func TestRulesTellNoAddressThatTheLogMayNotHave(t *testing.T) {
	s := newStage(t, func(c *config.Config) {
		c.Replies = shippedReplies(t)
		c.Log.Recipients = false
	}, provider("google", "aspmx.l.google.com", 2, sink.Behaviour{PermShare: 1, Say: map[sink.Cause]string{
		sink.CausePerm: "550 5.7.26 <someone@google.test> not taken, the sender is unauthenticated."}}))
	s.start()
	for range 20 {
		s.send(spool.Envelope{Stream: "bad"}, letter, "someone@google.test")
	}
	s.until("the stream is held", func() bool { return strings.Contains(s.log.String(), "stream bad is held") })
	if log := s.log.String(); strings.Contains(log, "someone") || !strings.Contains(log, "<…@google.test> not taken") {
		t.Errorf("log:\n%s", log)
	}
}
