package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// delivery is an outcome for a recipient of a stream.
func delivery(i int, stream, recipient string, status event.Status) *event.Delivery {
	return &event.Delivery{
		Time: time.Now(), ID: spool.ID(i), Domain: "far.test", Queue: "general", Site: "far", Relay: "mx.far.test[192.0.2.1]:25", Tries: 1,
		Status: status, Class: outcome.ClassUndefined, Hard: true, Code: 550, Enhanced: "5.1.1", Reason: "550 5.1.1 unknown",
		Envelope: &spool.Envelope{QueueID: "4Q", Stream: stream, Recipients: []spool.Recipient{{Address: recipient}}},
	}
}

// receiver takes requests, as do says.
type receiver struct {
	mu       sync.Mutex
	do       func(r *http.Request, body []byte) int // nil: 200
	order    []string                               // recipients, the first time each is taken
	times    map[string]int                         // event id -> how often it was taken
	requests int
	ids      map[string]string // webhook-id -> body
	wrong    []string
	key      string
}

func (x *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the other side has given up
	}
	x.mu.Lock()
	do := x.do
	x.requests++
	x.mu.Unlock()
	code := http.StatusOK
	if do != nil {
		code = do(r, body)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	id, stamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	if before, ok := x.ids[id]; ok && before != string(body) || id == "" {
		x.wrong = append(x.wrong, "id "+id+" has two bodies")
	}
	if x.ids == nil {
		x.ids, x.times = map[string]string{}, map[string]int{}
	}
	x.ids[id] = string(body)
	if x.key != "" {
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(x.key, "whsec_"))
		if got := r.Header.Get("webhook-signature"); got != sign([][]byte{key}, id, stamp, body) {
			x.wrong = append(x.wrong, "signature "+got)
		}
		if n, _ := strconv.ParseInt(stamp, 10, 64); time.Since(time.Unix(n, 0)).Abs() > time.Minute {
			x.wrong = append(x.wrong, "timestamp "+stamp)
		}
	}
	if code/100 == 2 {
		var m struct{ Data struct{ Events []Event } }
		if err := json.Unmarshal(body, &m); err != nil {
			x.wrong = append(x.wrong, err.Error())
		}
		for _, e := range m.Data.Events {
			if x.times[e.EventID]++; x.times[e.EventID] == 1 {
				x.order = append(x.order, e.Recipient)
			}
		}
	}
	w.WriteHeader(code)
}

func (x *receiver) set(do func(*http.Request, []byte) int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.do = do
}

func (x *receiver) taken() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.order)
}

const testSecret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="

func crm(url string) config.Webhook {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(testSecret, "whsec_"))
	return config.Webhook{Name: "crm", URL: url, Form: config.FormMillrace, Events: []string{"bounced", "sent"}, Keys: [][]byte{key}}
}

// rig is a Sender with its webhooks, in a directory that outlives it.
type rig struct {
	t    *testing.T
	o    Options
	s    *Sender
	log  logbuf.Buffer
	stop func()
}

func newRig(t *testing.T, o Options) *rig {
	r := &rig{t: t, o: o}
	r.o.StateDirectory, r.o.Log, r.o.Version = t.TempDir(), slog.New(slog.NewTextHandler(&r.log, nil)), "1"
	return r
}

func (r *rig) start(hooks ...config.Webhook) {
	r.s = New(r.o)
	r.s.Use(Policy{Hooks: hooks, Hostname: "mail.example.com"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done; r.s.Close() })
	r.t.Cleanup(r.stop)
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			r.t.Fatalf("not within a minute: %s\n%+v\n%s", what, r.s.Status(), r.log.String())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// pipes is a network in memory, for virtual time.
type pipes struct {
	server *http.Server
	accept chan net.Conn
	down   func() bool
}

func serve(x http.Handler) (*pipes, <-chan struct{}) {
	p := &pipes{server: &http.Server{Handler: x}, accept: make(chan net.Conn), down: func() bool { return false }}
	served := make(chan struct{})
	go func() { defer close(served); p.server.Serve(p) }()
	return p, served
}

func (p *pipes) Accept() (net.Conn, error) {
	c, ok := <-p.accept
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p *pipes) Close() error   { close(p.accept); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if p.down() {
		return nil, errors.New("connection refused")
	}
	a, b := net.Pipe()
	select {
	case p.accept <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestHourOfTroubleLosesNothing has, in virtual time, an hour of load on a receiver that is
// killed, slow, at fault, says that it is busy, and refuses one event for good.
func TestHourOfTroubleLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &receiver{key: testSecret}
		begin := time.Now()
		at := func() int { return int(time.Since(begin) / time.Minute) }
		var posted, retryAfter []time.Time
		x.do = func(r *http.Request, body []byte) int {
			posted = append(posted, time.Now())
			switch m := at(); {
			case strings.Contains(string(body), `"bad@far.test"`):
				return http.StatusBadRequest
			case m >= 10 && m < 15: // slow, and too slow every third time
				if time.Now().Unix()%3 == 0 {
					time.Sleep(45 * time.Second)
				} else {
					time.Sleep(2 * time.Second)
				}
			case m >= 15 && m < 25:
				return http.StatusInternalServerError
			case m >= 30 && m < 32:
				retryAfter = append(retryAfter, time.Now())
				return http.StatusTooManyRequests
			}
			return http.StatusOK
		}
		net, served := serve(x)
		net.down = func() bool { return at() >= 35 && at() < 45 }
		r := newRig(t, Options{Dial: net.dial, SegmentSize: 1 << 20})
		hook := crm("http://192.168.0.1/events")
		r.start(hook)
		var want []string
		most := 0
		for i := 0; time.Since(begin) < time.Hour; i++ {
			who := fmt.Sprintf("r%d@far.test", i)
			if i == 9000 {
				who = "bad@far.test"
			} else {
				want = append(want, who)
			}
			r.s.Delivery(delivery(i, "s"+strconv.Itoa(i%4), who, event.Sent))
			if i == 21000 { // the agent is started anew while the receiver is away
				r.stop()
				r.start(hook)
			}
			time.Sleep(100 * time.Millisecond)
			most = max(most, cap(r.s.hooks[0].window))
		}
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		st := r.s.Status()[0]
		if !slices.Equal(x.order, want) {
			i := 0
			for i < min(len(want), len(x.order)) && want[i] == x.order[i] {
				i++
			}
			t.Errorf("%d events of %d, apart from %d on; %+v", len(x.order), len(want), i, st)
		}
		if len(x.wrong) > 0 {
			t.Errorf("%d wrong: %v", len(x.wrong), x.wrong[0])
		}
		if len(st.Aside) != 1 || !strings.Contains(string(st.Aside[0].Event), "bad@far.test") || !strings.HasPrefix(st.Aside[0].Answer, "400 ") {
			t.Errorf("set aside: %+v", st.Aside)
		}
		if st.Waiting != 0 || st.Lost != 0 || !st.Since.IsZero() {
			t.Errorf("%+v", st)
		}
		if most > 2*readEvents {
			t.Errorf("%d events in memory", most)
		}
		// Events come a hundred a request when there are many, and waits grow: the ten minutes of 500 took
		// few requests.
		wrong := 0
		for _, p := range posted {
			if m := p.Sub(begin).Minutes(); m >= 15 && m < 25 {
				wrong++
			}
		}
		if wrong > 15 || len(retryAfter) > 12 {
			t.Errorf("%d requests in ten minutes of 500, %d in two of 429", wrong, len(retryAfter))
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

func TestOneBadEventOfABatchIsFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := []string{"r17@far.test", "r18@far.test", "r99@far.test"}
		alone := map[string]int{}
		x := &receiver{do: func(_ *http.Request, body []byte) int {
			for _, who := range bad {
				if strings.Contains(string(body), strconv.Quote(who)) {
					if strings.Count(string(body), "event_id") == 1 {
						alone[who]++
					}
					return http.StatusUnprocessableEntity
				}
			}
			return http.StatusAccepted
		}}
		net, served := serve(x)
		r := newRig(t, Options{Dial: net.dial})
		const url = "http://192.168.0.1/token-of-the-url"
		r.start(crm(url))
		for i := range 150 {
			r.s.Delivery(delivery(i, "news", fmt.Sprintf("r%d@far.test", i), event.Bounced))
		}
		time.Sleep(time.Minute)
		if st := r.s.Status()[0]; x.taken() != 147 || len(st.Aside) != 3 || !st.Since.IsZero() || st.Host != "http://192.168.0.1" {
			t.Errorf("%d, %+v", x.taken(), st)
		}
		for _, who := range bad {
			if alone[who] != triesAlone {
				t.Errorf("%s was tried %d times", who, alone[who])
			}
		}
		if x.requests > 80 {
			t.Errorf("%d requests", x.requests)
		}
		log := r.log.String()
		if strings.Count(log, "it is set aside") != 3 || strings.Contains(log, "r17@") || strings.Contains(log, "token-of-the-url") {
			t.Errorf("the log:\n%s", log)
		}
		// A restart remembers them, and a replay that is taken takes them off the list.
		r.stop()
		r.start(crm(url))
		if st := r.s.Status()[0]; len(st.Aside) != 3 || st.Waiting != 0 || st.Taken != 147 {
			t.Fatalf("%+v", st)
		}
		x.set(nil)
		if n, err := r.s.Replay(t.Context(), "crm", time.Now().Add(-time.Hour)); err != nil || n != 150 {
			t.Fatalf("%d, %v", n, err)
		}
		time.Sleep(time.Minute)
		if st := r.s.Status()[0]; x.taken() != 150 || len(st.Aside) != 0 || st.Waiting != 0 {
			t.Errorf("%d, %+v", x.taken(), st)
		}
		twice := 0
		for _, n := range x.times {
			if n == 2 {
				twice++
			}
		}
		if len(x.times) != 150 || twice != 147 {
			t.Errorf("%d ids, %d of them twice", len(x.times), twice)
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

func TestReceiverThatRefusesEverythingCostsFewEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &receiver{do: func(*http.Request, []byte) int { return http.StatusUnauthorized }}
		net, served := serve(x)
		r := newRig(t, Options{Dial: net.dial})
		r.start(crm("http://192.168.0.1/"))
		for i := range 1000 {
			r.s.Delivery(delivery(i, "news", fmt.Sprintf("r%d@far.test", i), event.Sent))
		}
		time.Sleep(24 * time.Hour)
		st := r.s.Status()[0]
		if n := len(st.Aside); n < patience || n > patience+250 {
			t.Errorf("%d set aside", n)
		}
		if !strings.Contains(st.trouble(time.Now()), "401 Unauthorized") {
			t.Errorf("%q", st.trouble(time.Now()))
		}
		aside := len(st.Aside)
		x.set(nil)
		time.Sleep(time.Hour)
		if got := x.taken() + aside; got < 1000-5 || got > 1000 {
			t.Errorf("%d", got)
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

func TestLossByTheBoundsOfTheLogIsTold(t *testing.T) {
	t.Parallel()
	x := &receiver{do: func(*http.Request, []byte) int { return http.StatusBadGateway }}
	server := httptest.NewServer(x)
	defer server.Close()
	r := newRig(t, Options{SegmentSize: 4 << 10, MaxSize: 16 << 10})
	r.start(crm(server.URL))
	for i := range 400 {
		r.s.Delivery(delivery(i, "news", fmt.Sprintf("r%d@far.test", i), event.Sent))
		if i%20 == 19 {
			if err := r.s.events.Load().Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.stop() // what it holds in memory was read from the log before that dropped it
	var gaps []Event
	x.set(func(_ *http.Request, body []byte) int {
		var m struct{ Data struct{ Events []Event } }
		json.Unmarshal(body, &m)
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, e := range m.Data.Events {
			if e.Event == "gap" {
				gaps = append(gaps, e)
			}
		}
		return http.StatusOK
	})
	r.start(crm(server.URL))
	r.until("the end", func() bool { st := r.s.Status()[0]; return st.Waiting == 0 && st.Taken > 0 })
	st := r.s.Status()[0]
	x.mu.Lock()
	defer x.mu.Unlock()
	events := len(x.order) - len(gaps)
	if len(gaps) != 1 || st.Lost == 0 || gaps[0].Lost != st.Lost || int(st.Lost)+events != 400 || gaps[0].ID != "" {
		t.Errorf("%d events, gaps %+v, %+v", events, gaps, st)
	}
	if why := r.s.Trouble(); len(why) != 1 || !strings.Contains(why[0], "events are lost") || !strings.Contains(r.log.String(), "events are lost") {
		t.Errorf("%q", why)
	}
}

// listmonk takes bounces as its published API says: listmonk.app/docs/bounces.
type listmonk struct {
	mu      sync.Mutex
	bounces []bounce
}

func (l *listmonk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, token, ok := r.BasicAuth()
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/webhooks/bounce":
		http.Error(w, "", http.StatusNotFound)
		return
	case !ok || user != "api" || token != "t0ken":
		http.Error(w, `{"message":"invalid API credentials"}`, http.StatusForbidden)
		return
	}
	var b bounce
	var meta map[string]any
	err := json.NewDecoder(r.Body).Decode(&b)
	if err == nil && b.Meta != "" {
		err = json.Unmarshal([]byte(b.Meta), &meta)
	}
	created, bad := time.Parse(time.RFC3339, b.CreatedAt)
	if err != nil || bad != nil || created.IsZero() || b.Email == "" || !strings.Contains(b.Email, "@") || b.Source == "" ||
		b.Type != "hard" && b.Type != "soft" && b.Type != "complaint" || b.Campaign != "" && !uuid.MatchString(b.Campaign) {
		http.Error(w, `{"message":"invalid fields"}`, http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bounces = append(l.bounces, b)
	io.WriteString(w, `{"data":true}`)
}

func TestListmonkGetsBounces(t *testing.T) {
	t.Parallel()
	x := &listmonk{}
	server := httptest.NewServer(x)
	defer server.Close()
	r := newRig(t, Options{})
	r.start(config.Webhook{
		Name: "listmonk", URL: server.URL + "/webhooks/bounce", Form: config.FormListmonk, Events: []string{"bounced", "late_bounce", "complaint"},
		User: "api", Password: "t0ken",
	})
	const campaign = "9f86b50d-5711-41c8-ab03-bc91c43d711b"
	hard := delivery(1, campaign, "hard@far.test", event.Bounced)
	soft := delivery(2, "news", "soft@far.test", event.Bounced)
	soft.Hard = false
	report := delivery(3, "news", "n@news.test", event.Bounced)
	report.Envelope.Origin = spool.Report
	came := func(i int, who, uncounted string) *event.Delivery {
		d := delivery(i, campaign, who, event.Complaint)
		d.Envelope.Recipients, d.To, d.FeedbackType, d.Uncounted = nil, who, "abuse", uncounted
		return d
	}
	for _, d := range []*event.Delivery{
		hard, soft, report, delivery(4, "news", "sent@far.test", event.Sent),
		came(5, "complains@far.test", ""), came(6, "forged@far.test", "others had the same copy"),
	} {
		r.s.Delivery(d)
	}
	r.until("three bounces", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.bounces) >= 3 && r.s.Status()[0].Waiting == 0
	})
	var got []string
	for _, b := range x.bounces {
		got = append(got, b.Email+" "+b.Type+" "+b.Campaign)
		if b.Source != "millrace" || !strings.Contains(b.Meta, `"event_id":"evt_`) {
			t.Errorf("%+v", b)
		}
	}
	want := []string{"hard@far.test hard " + campaign, "soft@far.test soft ", "complains@far.test complaint " + campaign}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if answer, err := r.s.Test(t.Context(), "listmonk"); err != nil || answer != "200 OK" {
		t.Errorf("%q, %v", answer, err)
	}
	if strings.Contains(r.log.String(), "t0ken") {
		t.Error("the password is in the log")
	}
}

// The example of the specification ("Signature scheme") is signed as its library does: the
// key, id, time and body of its tests, github.com/standard-webhooks/standard-webhooks.
func TestSignatureIsThatOfTheSpecification(t *testing.T) {
	t.Parallel()
	key, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign([][]byte{key, key}, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	if got != want+" "+want {
		t.Errorf("%s", got)
	}
}

func TestSpecialAddressesOnlyWhereTheURLNamesThem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host, at string
		ok       bool
	}{
		{"example.com", "93.184.216.34:443", true},
		{"example.com", "127.0.0.1:443", false},
		{"localhost", "127.0.0.1:443", false},
		{"example.com", "10.1.2.3:443", false},
		{"example.com", "169.254.169.254:80", false},
		{"example.com", "[::1]:443", false},
		{"example.com", "[fd00::1]:443", false},
		{"example.com", "[::ffff:127.0.0.1]:443", false},
		{"example.com", "[64:ff9b::7f00:1]:443", false},
		{"127.0.0.1", "127.0.0.1:9000", true},
		{"127.0.0.1", "127.0.0.2:9000", false},
		{"::1", "[::1]:443", true},
		{"10.1.2.3", "10.1.2.3:443", true},
		{"2130706433", "127.0.0.1:80", false}, // 127.0.0.1, as some resolvers read it
	} {
		if err := guard(c.host)("tcp", c.at, nil); (err == nil) != c.ok {
			t.Errorf("%s at %s: %v", c.host, c.at, err)
		}
	}
}

// TestNameThatLeadsToLoopbackIsNotCalled has localhost, which is a name, lead to a receiver
// that would take the event.
func TestNameThatLeadsToLoopbackIsNotCalled(t *testing.T) {
	t.Parallel()
	x := &receiver{}
	server := httptest.NewTLSServer(x)
	defer server.Close()
	r := newRig(t, Options{})
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	r.start(crm("https://localhost:" + port + "/?token=abc"))
	_, err := r.s.Test(t.Context(), "crm")
	if err == nil || !strings.Contains(err.Error(), "loopback") || strings.Contains(err.Error(), "abc") || x.requests > 0 {
		t.Errorf("%v, %d requests", err, x.requests)
	}
}

func TestCertificateMustBeValidAndRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	x := &receiver{}
	server := httptest.NewTLSServer(x)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	defer server.Close()
	away := httptest.NewServer(http.RedirectHandler(server.URL, http.StatusTemporaryRedirect))
	defer away.Close()
	r := newRig(t, Options{})
	moved := crm(away.URL)
	moved.Name = "moved"
	r.start(crm(server.URL), moved)
	for name, want := range map[string]string{"crm": "certificate", "moved": "307 Temporary Redirect"} {
		if _, err := r.s.Test(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if x.requests > 0 {
		t.Error("it was called")
	}
}

func TestReloadKeepsPlacesAndForgetsWhatIsRemoved(t *testing.T) {
	t.Parallel()
	a, b := &receiver{}, &receiver{}
	first, second := httptest.NewServer(a), httptest.NewServer(b)
	defer first.Close()
	defer second.Close()
	r := newRig(t, Options{})
	hook, other := crm(first.URL), crm(first.URL)
	other.Name = "other"
	r.start(hook, other)
	r.s.Delivery(delivery(1, "news", "one@far.test", event.Sent))
	r.until("taken", func() bool { st := r.s.Status(); return st[0].Waiting == 0 && st[1].Waiting == 0 && a.taken() == 1 })
	r.s.Delivery(delivery(2, "news", "two@far.test", event.Deferred)) // nobody wants it
	hook.URL = second.URL
	r.s.Use(Policy{Hooks: []config.Webhook{hook}, Hostname: "mail.example.com"})
	r.s.Delivery(delivery(3, "news", "three@far.test", event.Sent))
	r.until("taken", func() bool { return b.taken() == 1 })
	if !slices.Equal(b.order, []string{"three@far.test"}) {
		t.Errorf("%q", b.order)
	}
	dir := filepath.Join(r.o.StateDirectory, "webhooks")
	if _, err := os.Stat(filepath.Join(dir, "other.json")); err == nil {
		t.Error("the place of one that was removed stays")
	}
	r.s.Use(Policy{})
	if _, err := os.Stat(dir); err == nil {
		t.Error("events stay that are for nobody")
	}
	r.s.Delivery(delivery(4, "news", "four@far.test", event.Sent))
}

func TestForgottenAddressIsNotPosted(t *testing.T) {
	t.Parallel()
	x := &receiver{do: func(*http.Request, []byte) int { return http.StatusServiceUnavailable }}
	server := httptest.NewServer(x)
	defer server.Close()
	r := newRig(t, Options{})
	r.start(crm(server.URL))
	for i, who := range []string{"a@far.test", "b@far.test", "a@far.test", "c@far.test"} {
		r.s.Delivery(delivery(i, "news", who, event.Sent))
	}
	r.until("a first try", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.requests > 0 })
	if n, err := r.s.Forget(t.Context(), "A@far.test"); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	x.set(nil)
	r.until("the others", func() bool { return x.taken() == 2 })
	if !slices.Equal(x.order, []string{"b@far.test", "c@far.test"}) {
		t.Errorf("%q", x.order)
	}
}

func TestBackOffHasBounds(t *testing.T) {
	t.Parallel()
	for n := range 40 {
		d := backOff(n, 0)
		if d < firstWait/2 || d > maxWait {
			t.Errorf("%d: %v", n, d)
		}
	}
	if d := backOff(1, 30*24*time.Hour); d != maxRetryAfter {
		t.Errorf("%v", d)
	}
	now := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Duration{"120": 2 * time.Minute, "Sun, 29 Nov 2026 08:01:00 GMT": time.Minute, "-1": 0, "soon": 0, "": 0, "Sun, 29 Nov 2020 08:01:00 GMT": 0} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}
