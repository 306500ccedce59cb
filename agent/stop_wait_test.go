package agent

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestStopOutlastsReceiversThatThink holds the time that a stop gives to transactions between
// what receivers take over the final dot and what the service manager gives to the stop.
func TestStopOutlastsReceiversThatThink(t *testing.T) {
	t.Parallel()
	const think, rest = 45 * time.Second, 15 * time.Second
	unit, err := os.ReadFile("../packaging/systemd/millrace-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^TimeoutStopSec=(\d+)$`).FindSubmatch(unit)
	if m == nil {
		t.Fatal("the unit has no TimeoutStopSec= in seconds")
	}
	limit, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	if finish <= think+10*time.Second || finish > time.Duration(limit)*time.Second-rest {
		t.Errorf("transactions get %v: receivers take %v, and the unit gives the whole stop %d s", finish, think, limit)
	}
}

// thinking has a message at a receiver that thinks about its final dot until answer is called.
func thinking(t *testing.T, grace time.Duration) (s *stage, answer func()) {
	t.Helper()
	s = newStage(t, nil, far(sink.Behaviour{}))
	s.grace, s.thinks = grace, make(chan struct{})
	answer = sync.OnceFunc(func() { close(s.thinks) })
	s.start()
	t.Cleanup(answer) // before the stop, which waits for it
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("the receiver thinks", func() bool { return len(s.at("far")) == 1 })
	return s, answer
}

// A stop waits for the reply to the final dot, and then nothing is repeated.
func TestStopWaitsForTheReplyToTheDot(t *testing.T) {
	t.Parallel()
	s, answer := thinking(t, 0)
	s.stopNow()
	<-s.agent.opening.Done() // no more connects: all that is left is to wait
	if want := "grace=" + finish.String(); !strings.Contains(s.log.String(), want) {
		t.Errorf("no %s in the log:\n%s", want, s.log)
	}
	answer()
	s.stop()
	if strings.Contains(s.log.String(), "are cut") {
		t.Errorf("the transaction was cut:\n%s", s.log)
	}
	s.start()
	s.until("nothing is left", s.empty)
	if n := len(s.at("far")); n != 1 {
		t.Errorf("the receiver got it %d times", n)
	}
}

// A transaction that outlasts the stop is cut: the log says so, and the next agent sends the
// message again.
func TestStopCutsATransactionThatOutlastsIt(t *testing.T) {
	t.Parallel()
	s, answer := thinking(t, 10*time.Millisecond)
	s.stop()
	if !strings.Contains(s.log.String(), "transactions still in flight are cut") {
		t.Errorf("the log does not say so:\n%s", s.log)
	}
	answer()
	s.start()
	s.until("it is delivered again", func() bool { return len(s.at("far")) == 2 && s.empty() })
}
