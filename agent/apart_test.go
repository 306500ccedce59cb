package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/settings"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// asAgent makes the test binary be an agent with the configuration on its standard
// input: limits of a process can be tried.
const asAgent = "MILLRACE_AGENT_TEST"

func runApart() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var c config.Config
	err := json.NewDecoder(os.Stdin).Decode(&c)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		var a *Agent
		if a, err = New(&c, log, "test"); err == nil {
			if m := os.Getenv(asMember); m != "" {
				joinFleet(ctx, a, m)
			}
			err = a.Run(ctx, func() { log.Info("ready") })
		}
	}
	if err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// apart is an agent in a process of its own.
type apart struct {
	*stage
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has, with err set
	err   error
}

// startApart runs the agent of a stage in a process that may open so many files.
func (s *stage) startApart(files int) *apart {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := json.Marshal(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	p := &apart{stage: s, cmd: exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d && exec %s", files, exe)), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asAgent+"=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = bytes.NewReader(c), s.log, s.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	s.t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(2*time.Minute, func() { p.cmd.Process.Kill() })
		<-p.ended
		if !late.Stop() {
			s.t.Error("the agent did not end")
		}
	})
	s.until("the agent is ready", func() bool { return strings.Contains(s.log.String(), "msg=ready") })
	return p
}

// open is how many descriptors the process has.
func (p *apart) open() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	return len(list)
}

// silently opens connections that say nothing, so many at a time, and new ones for those
// that end, until the test does.
func silently(t *testing.T, network, address string, n int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				var d net.Dialer
				c, err := d.DialContext(ctx, network, address)
				if err != nil {
					select { // not as fast as the machine can
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond):
					}
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				io.Copy(io.Discard, c) // until the other side ends it
				stop()
				c.Close()
			}
		})
	}
}

// get asks over HTTP, on a connection of its own; at is as in [agent.http] listen.
func get(t *testing.T, at, path, host string) (code int, body string) {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	url := "http://" + at + path
	if file, ok := strings.CutPrefix(at, "unix:"); ok {
		url = "http://localhost" + path
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", file)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		r.Host = host
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// Any local user may open connections that say nothing, more than the agent has
// descriptors for: mail that comes is delivered, admins are answered, a balancer is too,
// and the agent ends when it is told to.
func TestSilentConnectionsStopNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t), "unix:" + filepath.Join(t.TempDir(), "http.sock")}
	}, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	const limit = 512
	p := s.startApart(limit)
	for _, at := range s.config.Agent.HTTP.Listen {
		if file, ok := strings.CutPrefix(at, "unix:"); ok {
			silently(t, "unix", file, 100)
		} else {
			silently(t, "tcp", at, 2*limit)
		}
	}
	silently(t, "unix", strings.TrimPrefix(s.config.Agent.Control, "unix:"), 100)
	s.until("the attack is under way", func() bool { return p.open() >= 2*settings.MaxHTTP })
	for i := range 20 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
		s.until("delivered", func() bool { return len(s.at("far")) == i+1 })
		for _, at := range s.config.Agent.HTTP.Listen {
			s.until("/readyz answers at "+at, func() bool { code, _ := get(t, at, "/readyz", ""); return code == http.StatusOK })
		}
		if n := p.open(); n > limit-100 {
			t.Errorf("%d of %d descriptors are used", n, limit)
		}
	}
	// A connection may give way before its request has been read, when the machine is slow:
	// an admin asks again then.
	s.until("an admin is answered, and all is settled", func() bool {
		st, err := s.admin().Status(t.Context())
		return err == nil && st.Waiting+st.Active+st.Deferred == 0
	})
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
	if p.err != nil {
		t.Errorf("ended with %v\nlog:\n%s", p.err, s.log)
	}
	if log := s.log.String(); strings.Contains(log, "too many open files") {
		t.Errorf("a call failed for want of descriptors:\n%s", log)
	}
}

// A directory that cannot be read any more ends the agent, with an error and as a whole,
// so that it is started anew.
func TestRunEndsAsAWholeWhenItCannotGoOn(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}})
	p := s.startApart(1024)
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	dir := filepath.Join(s.config.Spool.Directory, "segments")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	s.until("it has ended", func() bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	var exit *exec.ExitError
	if !errors.As(p.err, &exit) || exit.ExitCode() != 1 || !strings.Contains(s.log.String(), "msg=ended") {
		t.Errorf("ended with %v\nlog:\n%s", p.err, s.log)
	}
}

// Whoever owns domains chooses how many exchangers they have, and that nobody answers for
// them. With few descriptors, lookups that hang keep to their share: what has a way goes on.
func TestLookupsThatHangTakeNoDescriptorsFromMail(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.config.Agent.Protocols = []string{"ipv4", "ipv6"}
	resolver, hanging := evilResolver(t, s.net.DNSAddr())
	s.config.Agent.Resolvers = []string{resolver}
	const limit = 512
	p := s.startApart(limit)
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "first@far.test")
	s.until("a way is known", func() bool { return len(s.at("far")) == 1 })
	for i := range 200 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u@d%d.evil.test", i))
	}
	s.until("lookups hang", func() bool { return hanging() >= 40 })
	for i := range 20 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
		s.until("delivered", func() bool { return len(s.at("far")) == i+2 })
		if n := p.open(); n > limit-100 {
			t.Errorf("%d of %d descriptors are used", n, limit)
		}
	}
	if log := s.log.String(); strings.Contains(log, "too many open files") {
		t.Errorf("a call failed for want of descriptors:\n%s", log)
	}
}

// evilResolver answers for d*.evil.test with 32 exchangers, for which it answers nothing;
// it passes on the rest. hanging is how many questions it has left unanswered.
func evilResolver(t *testing.T, behind string) (address string, hanging func() int) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		q := m.Question[0]
		switch name := strings.ToLower(q.Name); {
		case strings.HasSuffix(name, ".hanging.test."):
			mu.Lock()
			n++
			mu.Unlock()
		case strings.HasSuffix(name, ".evil.test.") && q.Qtype == dns.TypeMX:
			r := new(dns.Msg).SetReply(m)
			for i := range 32 {
				r.Answer = append(r.Answer, &dns.MX{
					Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeMX, Class: dns.ClassINET, Ttl: 300},
					Mx:  fmt.Sprintf("m%d.%shanging.test.", i, strings.TrimSuffix(name, "evil.test.")),
				})
			}
			r.Compress = true
			w.WriteMsg(r)
		default:
			if r, err := dns.Exchange(m, behind); err == nil {
				w.WriteMsg(r)
			}
		}
	})}
	up := make(chan struct{})
	s.NotifyStartedFunc = func() { close(up) }
	served := make(chan error, 1)
	go func() { served <- s.ActivateAndServe() }()
	<-up
	t.Cleanup(func() {
		s.Shutdown()
		<-served
	})
	return netip.MustParseAddrPort(pc.LocalAddr().String()).String(), func() int { mu.Lock(); defer mu.Unlock(); return n }
}
