package webhook

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
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
	last     string            // body
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
	x.ids[id], x.last = string(body), string(body)
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

func (p *pipes) Close() error { close(p.accept); return nil }

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

// listmonk takes bounces as its published API says: listmonk.app/docs/bounces.
type listmonk struct {
	mu      sync.Mutex
	bounces []bounce
	ill     string // whose bounce it cannot take now
}

func (l *listmonk) cure() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ill = ""
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
	if b.Email == l.ill {
		http.Error(w, `{"message":"the database of `+b.Email+` is away"}`, http.StatusInternalServerError)
		return
	}
	l.bounces = append(l.bounces, b)
	io.WriteString(w, `{"data":true}`)
}
