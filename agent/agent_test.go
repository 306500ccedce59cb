package agent

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/contrib/lab/abreast"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/contrib/lab/sockets"
)

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		runApart()
	}
	// For timers and receivers: two at once took 183 s and more on two cores, with 88 s of CPU time.
	// Not more than four, for one of them, TestKindsOfReceiversOverSockets, has twelve parts at once.
	abreast.Wait(2)
	leaks.Main(m)
}

// stage is an agent between a real spool and a fake internet.
type stage struct {
	t        *testing.T
	net      *sink.Internet
	config   *config.Config
	writer   *spool.Writer
	agent    *Agent // started last
	stopped  chan error
	stopNow  context.CancelFunc
	log      *logbuf.Buffer
	logger   *slog.Logger  // of the agent; nil: to log, as text
	grace    time.Duration // of the agents' stops; 0: as New has it
	fleet    common        // of the agents; the zero value: that of config
	own      int64         // connections that admitted has made
	thinks   chan struct{} // receivers that have accepted a message answer once it is closed; nil: at once
	mu       sync.Mutex
	accepted []accepted
}

// accepted is a message that a receiver took.
type accepted struct {
	provider, sender, recipient string
	content                     string
	tls                         bool
	client                      netip.Addr
}

// relayDomain's provider stands for the host MTA's hand-back port.
const relay = "127.99.0.1"

func newStage(t *testing.T, change func(*config.Config), providers ...sink.Provider) *stage {
	t.Helper()
	s := &stage{t: t, log: &logbuf.Buffer{}}
	net, err := sink.New(sink.Options{Message: s.arrived})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(net.Close)
	s.net = net
	providers = append(providers, sink.Provider{
		Name: "host", Domains: []string{"*"}, Host: []sink.Host{{Name: "host.test", Addr: netip.MustParseAddr(relay)}},
	})
	for _, p := range providers {
		if err := net.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s.config = &config.Config{
		Hostname: "mail.lab.test",
		Spool:    config.Spool{Directory: filepath.Join(dir, "spool"), MinFree: 1, MaxRecipients: 1_000_000},
		Agent: config.Agent{
			Control: "unix:" + filepath.Join(dir, "c.sock"), Resolvers: []string{net.DNSAddr()}, Port: net.Port(),
			Protocols: []string{"ipv4"}, MaxSessions: 200, StateDirectory: filepath.Join(dir, "state"),
			AllowDestinations: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		},
		Handback: config.Handback{Relay: fmt.Sprintf("%s:%d", relay, net.Port())},
		Log:      config.Log{Recipients: true},
		General: config.Queue{
			Name: "general", Route: config.Route{Kind: config.RouteMX}, MaxSessions: 20, MaxMessagesPerConnection: 100,
			MaxRecipientsPerMessage: 50, Retry: []time.Duration{100 * time.Millisecond}, Expire: 120 * time.Hour, TLS: config.TLSOpportunistic,
		},
	}
	if change != nil {
		change(s.config)
	}
	if s.writer, err = spool.OpenWriter(s.config.Spool.Directory, spool.WriterOptions{Logger: s.log.Logger()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.writer.Close() })
	return s
}

func (s *stage) arrived(m *sink.Message) {
	s.mu.Lock()
	for _, r := range m.Recipients {
		s.accepted = append(s.accepted, accepted{m.Provider, m.Sender, r.Address, string(m.Content), m.TLS, m.Client})
	}
	s.mu.Unlock()
	if s.thinks != nil {
		<-s.thinks
	}
}

func (s *stage) start() *Agent {
	s.t.Helper()
	log := cmp.Or(s.logger, s.log.Logger())
	a, err := (*Agent)(nil), error(nil)
	if s.fleet.log != nil {
		a, err = newAgent(s.config, log, "test", s.fleet)
	} else {
		a, err = New(s.config, log, "test")
	}
	if err != nil {
		s.t.Fatal(err)
	}
	a.grace = cmp.Or(s.grace, a.grace)
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx, func() { close(ready) }) }()
	s.agent, s.stopNow, s.stopped = a, cancel, stopped
	select {
	case <-ready:
	case err := <-stopped:
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.stop)
	return a
}

func (s *stage) stop() {
	if s.stopNow == nil {
		return
	}
	s.stopNow()
	s.stopNow = nil
	if err := <-s.stopped; err != nil {
		s.t.Error(err)
	}
}

// send appends a message as the milter does, verdict and all.
func (s *stage) send(e spool.Envelope, content string, to ...string) spool.ID {
	s.t.Helper()
	for _, r := range to {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: r})
	}
	e.Arrived = cmpTime(e.Arrived)
	e.QueueID = "4QID" + fmt.Sprint(len(content))
	r, err := s.writer.Append(s.t.Context(), &e, strings.NewReader(content))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.Release(); err != nil {
		s.t.Fatal(err)
	}
	return r.ID()
}

func cmpTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Now()
	}
	return t
}

// until waits for a condition.
func (s *stage) until(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s\nlog:\n%s", what, s.log)
		}
	}
}

func (s *stage) at(provider string) []accepted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []accepted
	for _, a := range s.accepted {
		if a.provider == provider {
			list = append(list, a)
		}
	}
	return list
}

func (s *stage) status() *control.Status {
	s.t.Helper()
	st, err := control.NewClient(s.config.Agent.Control).Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

func (s *stage) empty() bool {
	st := s.status()
	return st.Waiting+st.Active+st.Deferred == 0
}

const letter = "Subject: news\r\nList-Id: <n.test>\r\n\r\n.leading dot\r\nbody\r\n"

func TestMessageReachesItsReceiverWithOurTraceOnTop(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]sink.Behaviour{"DATA": {}, "BDAT": {Chunking: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testArrival(t, b)
		})
	}
}

func testArrival(t *testing.T, b sink.Behaviour) {
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: b})
	s.start()
	id := s.send(spool.Envelope{Sender: "n@news.test", Helo: "client.test", ClientAddr: "192.0.2.7", ByHost: "mail.lab.test", Protocol: "ESMTP"},
		letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	got := s.at("far")[0]
	head, ok := strings.CutSuffix(got.content, letter)
	if !ok || !strings.HasPrefix(head, "Received: from client.test") || strings.Count(head, "Received:") != 1 {
		t.Errorf("content %q", got.content)
	}
	key, err := spool.LoopKey(s.config.Spool.Directory)
	if err != nil {
		t.Fatal(err)
	}
	if !trace.Marked(strings.TrimPrefix(head, "Received:"), key) {
		t.Errorf("no loop mark in %q", head)
	}
	s.until("log line", func() bool { return strings.Contains(s.log.String(), "status=sent") })
	for _, want := range []string{"qid=4QID", "id=" + id.String(), "to=<a@far.test>", "dsn=2.0.0", "relay=mx1.far.test[127."} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("log has no %q:\n%s", want, s.log)
		}
	}
}

func TestClientCanBeHidden(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.Agent.HideClient = true }, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Helo: "client.test", ClientName: "host.test", ClientAddr: "192.0.2.7", ByHost: "mail.lab.test", Protocol: "ESMTPSA"},
		letter, "a@far.test")
	s.until("delivered", func() bool { return len(s.at("far")) == 1 })
	got := s.at("far")[0].content
	if !strings.HasPrefix(got, "Received: by mail.lab.test (Millrace) with ESMTPSA\r\n") {
		t.Errorf("content %q", got)
	}
	for _, secret := range []string{"client.test", "host.test", "192.0.2.7"} {
		if strings.Contains(got, secret) {
			t.Errorf("%s in %q", secret, got)
		}
	}
}

func TestRefusedRecipientBouncesToItsSender(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@far.test")
	s.until("report", func() bool { return len(s.at("host")) == 1 })
	r := s.at("host")[0]
	if r.sender != "" || r.recipient != "n@news.test" {
		t.Errorf("report from %q to %q", r.sender, r.recipient)
	}
	for _, want := range []string{"a@far.test", "b@far.test", "Action: failed", "List-Id: <n.test>", "550"} {
		if !strings.Contains(r.content, want) {
			t.Errorf("report has no %q:\n%s", want, r.content)
		}
	}
	s.until("queue empty", s.empty)
}

func TestNullSenderGetsNoReport(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{PermShare: 1}})
	s.start()
	s.send(spool.Envelope{}, letter, "a@far.test")
	s.until("bounced", func() bool { return strings.Contains(s.log.String(), "status=bounced") && s.empty() })
	if n := len(s.at("host")); n != 0 {
		t.Errorf("%d reports for the null sender", n)
	}
}

func TestDeferredRecipientIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1, TempTimes: 1}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test")
	s.until("delivered at the second try", func() bool { return len(s.at("far")) == 1 })
	if !strings.Contains(s.log.String(), "status=deferred") {
		t.Error("the first try left no line in the log")
	}
}

func TestExpiredMailBounces(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test", Arrived: time.Now().Add(-121 * time.Hour)}, letter, "a@far.test")
	s.until("report", func() bool { return len(s.at("host")) == 1 })
	if r := s.at("host")[0]; !strings.Contains(r.content, "4.4.7") {
		t.Errorf("report does not say expired:\n%s", r.content)
	}
}

func TestDomainsWithoutMailBounceAndOurOwnLimitsHandBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "gone", Domains: []string{"gone.test"}, Behaviour: sink.Behaviour{DNS: sink.NXDomain}},
		sink.Provider{Name: "null", Domains: []string{"null.test"}, Behaviour: sink.Behaviour{DNS: sink.NullMX}},
		sink.Provider{Name: "self", Domains: []string{"self.test"}, Host: []sink.Host{{Name: "mail.lab.test"}}},
	)
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@gone.test", "a@null.test", "a@self.test")
	s.until("all settled", func() bool { return len(s.at("host")) >= 2 && s.empty() })
	var back []accepted
	told := ""
	for _, a := range s.at("host") {
		if a.recipient == "n@news.test" {
			told += a.content
		} else {
			back = append(back, a)
		}
	}
	// One report tells of both if the answers are not seconds apart.
	for _, to := range []string{"a@gone.test", "a@null.test"} {
		if n := strings.Count(told, "Final-Recipient: rfc822; "+to+"\r\n"); n != 1 {
			t.Errorf("reports tell of %s %d times:\n%s", to, n, told)
		}
	}
	if len(back) != 1 || back[0].recipient != "a@self.test" || back[0].sender != "n@news.test" {
		t.Errorf("handed back: %+v", back)
	}
}

func TestQueueWithHandbackRouteReturnsToTheHost(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Route.Kind = config.RouteHandback })
	s.start()
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "a@far.test", "b@other.test")
	s.until("handed back", func() bool { return len(s.at("host")) == 2 && s.empty() })
	if !strings.Contains(s.log.String(), `status="handed back"`) {
		t.Errorf("log:\n%s", s.log)
	}
}

func TestRestartLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil, sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{RTT: 2 * time.Millisecond}})
	const n = 300
	for i := range n {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@far.test", i))
	}
	for len(s.at("far")) < n {
		had := len(s.at("far"))
		s.start()
		s.until("progress", func() bool { return len(s.at("far")) > min(had+60, n-1) })
		s.stop()
	}
	seen := make(map[string]int)
	for _, a := range s.at("far") {
		seen[a.recipient]++
	}
	for r, times := range seen {
		if times != 1 {
			t.Errorf("%s got it %d times", r, times)
		}
	}
	if len(seen) != n {
		t.Errorf("%d of %d recipients", len(seen), n)
	}
}

func TestProvidersThatDoNotAnswerDoNotHoldUpAnother(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil,
		sink.Provider{Name: "hanging", Domains: []string{"d*.hanging.test"}, Behaviour: sink.Behaviour{HangConnect: 1}},
		sink.Provider{Name: "unreachable", Domains: []string{"d*.unreachable.test"}, Behaviour: sink.Behaviour{Unreachable: true}},
		sink.Provider{Name: "dead", Domains: []string{"d*.dead.test"}, Behaviour: sink.Behaviour{Down: true}},
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
	)
	s.start()
	for i := range 100 {
		s.send(spool.Envelope{Sender: "n@news.test"}, letter, fmt.Sprintf("u%d@d%d.hanging.test", i, i),
			fmt.Sprintf("u%d@d%d.unreachable.test", i, i), fmt.Sprintf("u%d@d%d.dead.test", i, i), fmt.Sprintf("u%d@far.test", i))
	}
	s.until("the others delivered", func() bool { return len(s.at("far")) == 100 })
}

func TestListingShowsWhatWaitsAndWhy(t *testing.T) {
	t.Parallel()
	s := newStage(t, func(c *config.Config) { c.General.Retry = []time.Duration{time.Hour} },
		sink.Provider{Name: "far", Domains: []string{"far.test"}, Behaviour: sink.Behaviour{TempShare: 1}})
	s.start()
	id := s.send(spool.Envelope{Sender: "n@news.test", Stream: "n.test"}, letter, "a@far.test", "b@far.test")
	s.until("deferred", func() bool { return s.status().Deferred == 2 })
	var got []*control.Message
	err := control.NewClient(s.config.Agent.Control).Messages(t.Context(), control.Filter{}, func(m *control.Message) error {
		got = append(got, m)
		return nil
	})
	if err != nil || len(got) != 1 {
		t.Fatalf("%d entries, %v", len(got), err)
	}
	m := got[0]
	if m.ID != id.String() || m.Sender != "n@news.test" || m.Stream != "n.test" || len(m.Recipients) != 2 ||
		m.Recipients[0].State != "deferred" || !strings.Contains(m.Recipients[0].Reason, "450") || m.Recipients[0].Due.IsZero() {
		t.Errorf("listed as %+v", m)
	}
}

func TestSecondAgentOnASpoolIsRefused(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	if _, err := New(s.config, slog.New(slog.NewTextHandler(io.Discard, nil)), "test"); err == nil {
		t.Error("a second agent opened the spool")
	}
}

// freePort is a TCP address nobody listens on; the agent of the test may have it.
func freePort(t *testing.T) string {
	t.Helper()
	f, addr, err := sockets.Reserve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return addr
}

func (s *stage) ready() (int, string) { return s.page(s.config.Agent.HTTP.Listen[0], "/readyz") }

// page asks over HTTP until there is an answer: the agent ends a connection on which nothing
// is asked for seconds, as on a slow machine. at is as in [agent.http] listen.
func (s *stage) page(at, path string) (code int, body string) {
	s.t.Helper()
	s.until(path+" answers", func() bool {
		code, body = get(s.t, at, path, "")
		return code != 0
	})
	return code, body
}

func TestWhatTheConfigurationDoesNotGetIsShown(t *testing.T) {
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Refused = []config.Notice{{File: "millrace.toml", Line: 3, Text: "listen: open"}}
	})
	s.start()
	s.until("the spool is read", s.agent.watch.Loaded)
	if code, text := s.ready(); code != http.StatusServiceUnavailable || text != "millrace.toml:3: listen: open\n" {
		t.Errorf("/readyz: %d %s", code, text)
	}
}

func TestDamagedMailIsSettledAndToldToTheAdmin(t *testing.T) {
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Events.File = filepath.Join(t.TempDir(), "events.jsonl")
	}, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	spoiled := s.send(spool.Envelope{Sender: "n@news.test", Stream: "spoiled"}, letter, "a@far.test")
	s.send(spool.Envelope{Sender: "n@news.test"}, letter, "b@far.test")
	if err := s.writer.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.config.Spool.Directory, "segments", "00000001")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte("spoiled"))] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.until("the other one delivered", func() bool { return len(s.at("far")) == 1 && s.empty() })
	s.until("not ready", func() bool {
		code, text := s.ready()
		return code == http.StatusServiceUnavailable && strings.Contains(text, "damaged")
	})
	if got := s.at("far")[0].recipient; got != "b@far.test" {
		t.Errorf("delivered to %s", got)
	}
	s.stop()
	if list := s.events(); len(list) != 2 || !slices.Contains(list, anEvent{Event: "damaged", ID: spoiled.String(), Class: "system"}) {
		t.Errorf("events %+v", list)
	}
}

func TestReadyOnceTheSpoolIsRead(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} })
	s.start()
	if code, text := s.ready(); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d %q", code, text)
	}
}
