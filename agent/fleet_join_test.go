package agent

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// ofFleet makes nodes of a fleet by nothing but [fleet]: a store at a port where none runs yet, and
// for each but the last, which shares limits alone, a certificate and a port for the others.
func ofFleet(t *testing.T, names ...string) (nodes map[string]*stage, storePort string) {
	t.Helper()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	_, storePort, err = net.SplitHostPort(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	nodes = make(map[string]*stage)
	var first *stage
	for i, name := range names {
		if first == nil {
			first = newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
			nodes[name] = first
		} else {
			nodes[name] = first.beside()
		}
		f := config.Fleet{Name: "mail", Node: name, Nodes: config.Count(len(names)), Stores: []config.FleetStore{{Address: "127.0.0.1:" + storePort}}}
		if i < len(names)-1 {
			p, err := ca.Issue(selfsigned.Leaf{DNS: []string{name}, URI: []string{"millrace:mail"}})
			if err != nil {
				t.Fatal(err)
			}
			if f.TLSCAFile, f.TLSCertFile, f.TLSKeyFile, err = ca.Write(t.TempDir(), name, p); err != nil {
				t.Fatal(err)
			}
			f.Listen = freePort(t)
			f.Advertise = f.Listen
		}
		nodes[name].config.Fleet = f
	}
	return nodes, storePort
}

// paused reports whether a stream is paused by an order of the fleet.
func (s *stage) paused(stream string) bool {
	return slices.ContainsFunc(s.standing().Pauses, func(p control.Pause) bool { return p.Filter.Stream == stream && p.Order != "" })
}

// TestFleetOfItsConfiguration has nodes that know of each other by [fleet] alone: what is ordered
// reaches each that can be ordered to, with the store, without it, and after a restart without it;
// each lists the mail of all, and mail moves. A node without a certificate shares limits, no more.
func TestFleetOfItsConfiguration(t *testing.T) {
	t.Parallel()
	nodes, port := ofFleet(t, "a", "b", "c")
	a, b, c := nodes["a"], nodes["b"], nodes["c"]
	store := redisServer(t, port)
	for _, s := range nodes {
		s.start()
	}
	for _, s := range nodes {
		s.until("it has its part", func() bool {
			f, err := s.admin().Fleet(t.Context())
			return err == nil && len(f.Members) == 3 && f.Divisor == 3 && f.Away == ""
		})
	}
	began := time.Now()
	a.pause(control.Filter{Stream: "news"}, "wrong price")
	b.until("paused on b", func() bool { return b.paused("news") })
	t.Logf("a pause is in force on the other node after %s", time.Since(began))
	if l := c.standing().Pauses; len(l) > 0 {
		t.Errorf("a node without a certificate obeys %+v", l)
	}
	if x, err := a.admin().Spread(t.Context()); err != nil || !slices.Equal(x.Confirmed, []string{"a", "b"}) || !slices.Equal(x.Missing, []string{"c"}) {
		t.Errorf("confirmed by %q, not by %q: %v", x.Confirmed, x.Missing, err)
	}
	b.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "bob@far.test")
	b.until("it waits", func() bool { return b.status().Queued() == 1 })
	seen := make(map[string]int)
	missing, err := a.admin().ViewOfFleet(t.Context(), control.ViewQueue, control.Filter{All: true}, func(node string, _ json.RawMessage) error {
		seen[node]++
		return nil
	})
	if err != nil || len(seen) != 1 || seen["b"] != 1 || len(missing) != 1 || missing[0].Node != "c" {
		t.Errorf("listed %v, missing %+v: %v", seen, missing, err)
	}
	move := control.Action{Verb: control.VerbMove, To: "a", Filter: control.Filter{All: true}}
	if n, err := b.admin().Act(t.Context(), move, nil); err != nil || n.Recipients != 1 {
		t.Errorf("moved %+v: %v", n, err)
	}
	a.until("it waits there", func() bool { return a.status().Queued() == 1 && b.status().Queued() == 0 })

	if err := store.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	a.pause(control.Filter{Stream: "other"}, "without a store")
	b.until("paused on b directly", func() bool { return b.paused("other") })
	t.Logf("without the store after %s", time.Since(began))
	began = time.Now()
	b.stop()
	t.Logf("a node has stopped without the store after %s", time.Since(began))
	b.start()
	if !b.paused("other") || !b.paused("news") {
		t.Errorf("after a restart %+v are in force", b.standing().Pauses)
	}
	// b learns where a answers when a calls: without the store it knows nobody's address at first.
	a.resume(control.Filter{Stream: "news"})
	b.until("resumed on b, by a, without the store", func() bool { return !b.paused("news") })
	a.until("it is delivered by the other node", func() bool { return len(a.at("far")) == 1 })
}

// TestFleetWithoutUsableCertificates has a node start on files that are damaged: mail goes on, and
// /readyz says why nothing is ordered for all from there. A pause of its own still works.
func TestFleetWithoutUsableCertificates(t *testing.T) {
	t.Parallel()
	nodes, _ := ofFleet(t, "a", "b")
	a := nodes["a"]
	if err := os.WriteFile(a.config.Fleet.TLSCertFile, []byte("no certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.start()
	w := strings.Join(a.agent.watch.Warnings(), "\n")
	for _, want := range []string{"common orders of the fleet are off", "tls_cert_file of [fleet]", filepath.Base(a.config.Fleet.TLSCertFile)} {
		if !strings.Contains(w, want) {
			t.Errorf("no %q in the warnings %q", want, w)
		}
	}
	if l := a.agent.watch.NotReady(); len(l) > 0 {
		t.Errorf("not ready: %q", l)
	}
	a.pause(control.Filter{Stream: "news"}, "here")
	a.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "bob@far.test")
	a.until("it waits", func() bool { return a.status().Queued() == 1 })
	a.resume(control.Filter{Stream: "news"})
	a.until("it is delivered", func() bool { return len(a.at("far")) == 1 })
}
