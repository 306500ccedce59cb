package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/assess"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/fleet/marks"
	"github.com/millrace/millrace/agent/fleet/peer"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// startPeers starts two nodes before one internet, and says that c is a member, which is off.
func startPeers(t *testing.T) (a, b *stage) {
	t.Helper()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	a = newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	dir := t.TempDir()
	c := *a.config
	c.Spool.Directory, c.Agent.StateDirectory, c.Agent.Control = filepath.Join(dir, "spool"), filepath.Join(dir, "state"), "unix:"+filepath.Join(dir, "c.sock")
	b = &stage{t: t, net: a.net, config: &c, log: &logbuf.Buffer{}}
	if b.writer, err = spool.OpenWriter(c.Spool.Directory, spool.WriterOptions{Logger: b.log.Logger()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.writer.Close() })
	at := map[string]string{"a": freePort(t), "b": freePort(t), "c": ""}
	for name, s := range map[string]*stage{"a": a, "b": b} {
		p, err := ca.Issue(selfsigned.Leaf{DNS: []string{name}, URI: []string{"millrace:mail"}})
		if err != nil {
			t.Fatal(err)
		}
		f := peer.Files{Fleet: "mail", Node: name}
		if f.CA, f.Cert, f.Key, err = ca.Write(t.TempDir(), name, p); err != nil {
			t.Fatal(err)
		}
		x, err := New(s.config, s.log.Logger(), "test")
		if err != nil {
			t.Fatal(err)
		}
		x.joinPeers(peersOptions{
			Files: f, Listen: at[name], Members: func() []string { return []string{"a", "b", "c"} },
			Member:  func(node string) bool { _, ok := at[node]; return ok },
			Address: func(node string) string { return at[node] },
		})
		ctx, cancel := context.WithCancel(context.Background())
		ready, stopped := make(chan struct{}), make(chan error, 1)
		go func() { stopped <- x.Run(ctx, func() { close(ready) }) }()
		s.agent, s.stopNow, s.stopped = x, cancel, stopped
		select {
		case <-ready:
		case err := <-stopped:
			t.Fatal(err)
		}
		t.Cleanup(s.stop)
	}
	return a, b
}

// Nodes list each other's mail, know it by its marks, and hand over a report on it that comes home
// elsewhere.
func TestNodesKnowEachOthersMail(t *testing.T) {
	t.Parallel()
	a, b := startPeers(t)
	a.send(spool.Envelope{Sender: "n@news.test", Stream: "news", Arrived: time.Now()}, letter, "bob@far.test")
	a.until("it is delivered", func() bool { return len(a.at("far")) == 1 })
	sent := a.at("far")[0].content

	pause := control.Pause{Filter: control.Filter{All: true}, Reason: "to be listed"}
	if err := b.admin().Pause(t.Context(), pause); err != nil {
		t.Fatal(err)
	}
	b.send(spool.Envelope{Sender: "n@news.test", Stream: "other", Arrived: time.Now()}, letter, "eve@far.test")
	b.until("it is queued", func() bool { return b.status().Queued() == 1 })
	got := map[string]int{}
	missing, err := a.admin().ViewOfFleet(t.Context(), control.ViewQueue, control.Filter{Domain: "far.test"}, func(node string, item json.RawMessage) error {
		got[node]++
		return nil
	})
	if err != nil || fmt.Sprint(got) != "map[b:1]" || len(missing) != 1 || missing[0].Node != "c" || !strings.Contains(missing[0].Why, "has no address") {
		t.Errorf("%v, %+v, %v", got, missing, err)
	}

	if l := append(a.agent.peers.trouble(), b.agent.peers.trouble()...); len(l) > 0 {
		t.Errorf("trouble: %q", l)
	}
	known := func(s *stage, node string) {
		s.until("its key is known", func() bool {
			list, err := marks.Read(s.config.Spool.Directory, time.Now())
			return err == nil && len(list) == 1 && list[0].Node == node
		})
	}
	known(a, "b")
	known(b, "a")
	text, err := os.ReadFile(filepath.Join("feedback", "testdata", "seen", "postfix.eml"))
	if err != nil {
		t.Fatal(err)
	}
	_, report, _ := strings.Cut(string(text), "\n\n")
	received, _, _ := strings.Cut(sent, letter)
	received = strings.ReplaceAll(received, "\r\n", "\n")
	report = strings.NewReplacer("@RCPT@", "bob@far.test", "@FROM@", "n@news.test", "@RECEIVED@\n", received).Replace(report)
	if _, err := feedback.NewBox(b.config.Spool.Directory).Put([]byte(strings.ReplaceAll(report, "\n", "\r\n")), 1, time.Now()); err != nil {
		t.Fatal(err)
	}
	a.until("a has judged it", func() bool {
		return a.agent.assessor.Counts()[assess.Count{Kind: assess.LateBounce, Result: assess.Counted}] == 1
	})
	if n := b.agent.assessor.Counts()[assess.Count{Kind: assess.LateBounce, Result: assess.HandedOver}]; n != 1 {
		t.Errorf("b has counted %v", b.agent.assessor.Counts())
	}
}
