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

	"github.com/redis/go-redis/v9"

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

	admin := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port})
	defer admin.Close()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "default", "-xread").Err(); err != nil {
		t.Fatal(err)
	}
	a.until("it is counted that the store refuses something", func() bool { return a.agent.watch.State().Fleet.StoreRefuses })

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

// TestFleetWithoutUsableCertificates has nodes without certificates, with damaged ones, and with some that
// the configuration refuses start: mail goes on, and /readyz and whoever orders something are told that
// it is for that node alone.
func TestFleetWithoutUsableCertificates(t *testing.T) {
	t.Parallel()
	nodes, _ := ofFleet(t, "damaged", "refused", "wrong", "none")
	damaged := &nodes["damaged"].config.Fleet
	if err := os.WriteFile(damaged.TLSCertFile, []byte("no certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	nodes["refused"].config.Fleet.KeyRefused = "tls_cert_file: it is gone"
	wrong := &nodes["wrong"].config.Fleet
	wrong.TLSCAFile, wrong.TLSCertFile, wrong.TLSKeyFile = nodes["refused"].config.Fleet.TLSCAFile, nodes["refused"].config.Fleet.TLSCertFile, nodes["refused"].config.Fleet.TLSKeyFile
	for name, want := range map[string]string{
		"damaged": filepath.Base(damaged.TLSCertFile), "refused": "tls_cert_file: it is gone", "wrong": "cannot be signed", "none": "no certificate of the fleet",
	} {
		a := nodes[name]
		a.start()
		w := strings.Join(a.agent.watch.Warnings(), "\n")
		x, err := a.admin().Spread(t.Context())
		if err != nil || x.Fleet != "" {
			t.Errorf("%s: %+v, %v", name, x, err)
		}
		for what, text := range map[string]string{"/readyz": w, "whoever orders": x.Alone} {
			if !strings.Contains(text, want) || !strings.Contains(text, "here only") || !strings.Contains(text, "; remedy: ") {
				t.Errorf("%s: %s is told %q", name, what, text)
			}
		}
		if l := a.agent.watch.NotReady(); len(l) > 0 {
			t.Errorf("%s is not ready: %q", name, l)
		}
		if name != "none" && len(a.log.Lines("level=ERROR", "the fleet: ", want)) == 0 {
			t.Errorf("%s: the log does not say so", name)
		}
	}
	a := nodes["damaged"]
	a.pause(control.Filter{Stream: "news"}, "here")
	a.send(spool.Envelope{Sender: "n@news.test", Stream: "news"}, letter, "bob@far.test")
	a.until("it waits", func() bool { return a.status().Queued() == 1 })
	a.resume(control.Filter{Stream: "news"})
	a.until("it is delivered", func() bool { return len(a.at("far")) == 1 })
}
