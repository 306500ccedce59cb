package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/webhook"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// hookReceiver takes events as a program would, and remembers all of it. Some requests it
// does not take, and after some that it took it closes the connection without an answer.
type hookReceiver struct {
	key []byte // of signatures; nil: they are not looked at
	ill bool   // it does so

	mu       sync.Mutex
	requests int
	cut      int               // taken, and not answered
	taken    [][]webhook.Event // requests
	at       []time.Time       // of these
	bodies   map[string]string // by webhook-id
	wrong    []string
}

func (h *hookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the agent was killed
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests++
	id, stamp := r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp")
	if before, ok := h.bodies[id]; ok && before != string(body) || id == "" {
		h.wrong = append(h.wrong, "two bodies of "+id)
	}
	if h.bodies == nil {
		h.bodies = make(map[string]string)
	}
	h.bodies[id] = string(body)
	if h.key != nil {
		m := hmac.New(sha256.New, h.key)
		m.Write([]byte(id + "." + stamp + "." + string(body)))
		if want := "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil)); r.Header.Get("webhook-signature") != want {
			h.wrong = append(h.wrong, "signature of "+id)
		}
	}
	if h.ill && h.requests%11 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var m struct {
		Data struct{ Events []webhook.Event }
	}
	if err := json.Unmarshal(body, &m); err != nil {
		h.wrong = append(h.wrong, err.Error())
	}
	h.taken, h.at = append(h.taken, m.Data.Events), append(h.at, time.Now())
	if h.ill && h.requests%7 == 0 {
		h.cut++
		panic(http.ErrAbortHandler)
	}
}

// words are the events taken, in order, as "RECIPIENT EVENT".
func (h *hookReceiver) words() (list []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, events := range h.taken {
		for _, e := range events {
			list = append(list, e.Recipient+" "+e.Event)
		}
	}
	return list
}

// What a kill -9 of the agent leaves out and repeats of its events, under load, with a receiver
// that is ill now and then. All that is in the log of events reaches the receiver, in its
// order and without a hole, and no id of a request stands for two bodies. What does not reach it
// was told within the last moment before a kill, or the agent had no time to tell anybody.
func TestWebhookOutlivesKillNine(t *testing.T) {
	t.Parallel()
	const (
		sessions      = 12
		maxRecipients = 4
		// moment is many times what the writer of the log waits, for a busy machine.
		moment = 5 * time.Second
	)
	h := &hookReceiver{key: []byte("0123456789012345678901234567890123456789"), ill: true}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	providers := busy(20 * time.Millisecond)
	providers[0].Behaviour.PermShare = 0.05
	providers[1].Behaviour.TempShare, providers[1].Behaviour.TempTimes = 0.05, 1
	r := enter(t, setup{
		providers: providers, patience: time.Hour,
		postfix: patient(lab.PostfixOptions{}),
		millrace: lab.MillraceOptions{
			Set: map[string]string{"agent.max_sessions": fmt.Sprint(sessions), "general.retry": `["1s"]`},
			Extra: fmt.Sprintf("[[webhook]]\nname = \"crm\"\nurl = %q\nevents = [\"sent\", \"bounced\", \"deferred\"]\nsecret = \"whsec_%s\"\n",
				server.URL, base64.StdEncoding.EncodeToString(h.key)),
		},
		furnish: func(m *lab.Millrace) { // for the secret
			if err := os.Chmod(m.Config(), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
	s := r.flowOf(r.Host.SMTPAddr(), &inject.Generator{
		Seed: 26, Domains: []string{"a1.example", "a2.example", "b1.example"}, Sender: "news@lab.test",
		MinSize: 2 << 10, MaxSize: 8 << 10, MaxRecipients: maxRecipients,
	}, 150)
	agent := r.Millrace.Agent
	var ends []int // of the agent's lives, in its log
	for i := range webhookKills {
		s.more(20 + 30*(i%5))
		agent.Kill()
		ends = append(ends, len(read(t, agent.Log())))
		r.start(agent)
	}
	s.more(50)
	s.end()
	r.rest()
	r.stop(agent) // which writes the last events

	records := r.events()
	place, final := make(map[string]int), make(map[string]bool) // in the log; of recipients
	for i := range records {
		x := &records[i]
		place[eventKey(x.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), x.ID.String(), x.Ordinal, x.Event)] = i
		if x.Event != "deferred" {
			final[x.ID.String()+" "+x.Recipient] = true
		}
	}
	if len(place) != len(records) {
		t.Fatalf("%d of %d events of the log differ", len(place), len(records))
	}
	r.start(agent)
	newest := records[len(records)-1]
	r.until("the last event is taken", func() bool { return slices.Contains(h.words(), newest.Recipient+" "+newest.Event) })
	h.mu.Lock()
	defer h.mu.Unlock()
	next, back, repeated := 0, 0, 0
	ids, first := make([]string, len(records)), make([]time.Time, len(records)) // of events; when they were taken
	for n, events := range h.taken {
		for i, e := range events {
			at, ok := place[eventKey(e.Time, e.ID, e.Ordinal, e.Event)]
			switch {
			case !ok:
				t.Fatalf("an event that the log does not have: %+v", e)
			case i == 0 && at < next: // of a request, after a kill or an answer that did not come
				back, repeated = back+1, repeated+next-at
				if again := h.at[n-1].Sub(first[at]); again > time.Second+moment {
					t.Errorf("what was taken %v before comes again", again)
				}
			case at != next:
				t.Fatalf("event %d comes where %d should: %+v", at, next, e)
			}
			if ids[at] == "" {
				ids[at], first[at] = e.EventID, h.at[n]
			} else if ids[at] != e.EventID {
				t.Errorf("%s is %s another time: %+v", ids[at], e.EventID, e)
			}
			next = at + 1
		}
	}
	if next != len(records) {
		t.Errorf("%d events of %d were taken", next, len(records))
	}
	if back > webhookKills+h.cut {
		t.Errorf("%d times events came again, after %d kills and %d answers that did not come", back, webhookKills, h.cut)
	}
	if len(h.wrong) > 0 {
		t.Errorf("%d wrong, the first: %s", len(h.wrong), h.wrong[0])
	}

	// The agent's own log has a line of an outcome before the log of events hears of it, and
	// each line is written at once.
	told := make(map[string]bool)
	text, from, left, longest := read(t, agent.Log()), 0, 0, time.Duration(0)
	for life, end := range append(ends, len(text)) {
		var missing []time.Time
		var last time.Time
		later := 0 // that are in the log of events although one before is not
		for _, line := range logbuf.Lines(text[from:end], "msg=delivery") {
			status, to := field(line, "status"), strings.Trim(field(line, "to"), "<>")
			if status != "sent" && status != "bounced" {
				continue
			}
			at, err := time.Parse(time.RFC3339, field(line, "time"))
			if err != nil {
				t.Fatal(err)
			}
			key := field(line, "id") + " " + to
			told[key], last = true, at
			if !final[key] {
				missing = append(missing, at)
			} else if len(missing) > 0 {
				later++
			}
		}
		from = end
		if len(missing) == 0 {
			continue
		}
		left += len(missing)
		longest = max(longest, last.Sub(missing[0]))
		if life == len(ends) || later > sessions*maxRecipients || last.Sub(missing[0]) > moment {
			t.Errorf("life %d of %d: %d events are not in the log, the first of %v before the end; %d after it are", life+1, len(ends)+1, len(missing), last.Sub(missing[0]), later)
		}
	}
	untold := make(map[string]bool)
	for _, a := range r.all() {
		if key := a.spool + " " + a.recipient; a.ours() && !told[key] && !final[key] {
			untold[key] = true
		}
	}
	if len(untold) > webhookKills*sessions*maxRecipients {
		t.Errorf("%d outcomes were told to nobody", len(untold))
	}
	t.Logf("%d kills, %d requests, %d events, %d times back with %d of them; not in the log: %d, told within %v before a kill, and %d that nobody was told of",
		webhookKills, h.requests, len(records), back, repeated, left, longest, len(untold))
}

func eventKey(at, id string, ordinal uint32, event string) string {
	return fmt.Sprint(at, " ", id, " ", ordinal, " ", event)
}

// events reads the log of events of webhooks. The agent must not run.
func (r *room) events() (all []eventlog.Record) {
	r.t.Helper()
	l := eventlog.Open(eventlog.Options{
		Dir: filepath.Join(filepath.Dir(r.Millrace.Config()), "state", "webhooks", "events"), Log: slog.New(slog.DiscardHandler),
	})
	defer l.Close(r.ctx)
	var b eventlog.Batch
	for more := true; more; more = b.More {
		if err := l.Read(b.Next, 1000, &b); err != nil || b.Lost > 0 {
			r.t.Fatalf("%d events are lost, %v", b.Lost, err)
		}
		all = append(all, b.Records...)
	}
	return all
}

// To try it: mail for a simulated domain comes in by Postfix and the milter, its outcomes go to two
// webhooks, and nothing leaves the host. A Postfix that refuses domains which are not in the
// DNS lets it in as the manual says; the campaign that listmonk's header names is told to it.
func TestSimulatedOutcomesByPostfix(t *testing.T) {
	t.Parallel()
	const campaign = "9f86b50d-5711-41c8-ab03-bc91c43d711b"
	h := &hookReceiver{}
	var mu sync.Mutex
	var bounces []string
	mux := http.NewServeMux()
	mux.Handle("POST /events", h)
	mux.HandleFunc("POST /webhooks/bounce", func(_ http.ResponseWriter, r *http.Request) {
		var b struct {
			Email, Type, Source string
			Campaign            string `json:"campaign_uuid"`
		}
		err := json.NewDecoder(r.Body).Decode(&b)
		mu.Lock()
		defer mu.Unlock()
		bounces = append(bounces, fmt.Sprint(b.Email, " ", b.Type, " ", b.Source, " ", b.Campaign, " ", err))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	r := enter(t, setup{
		keep: true,
		postfix: lab.PostfixOptions{Extra: map[string]string{
			"smtpd_recipient_restrictions": "check_recipient_access inline:{simulated.test=permit_mynetworks}, reject_unknown_recipient_domain, permit_mynetworks, reject_unauth_destination",
		}},
		millrace: lab.MillraceOptions{Set: map[string]string{"simulate.domain": `"simulated.test"`, "general.retry": `["1h"]`}, Extra: `
[[milter.rule]]
name = "campaigns of listmonk"
header_exists = ["X-Listmonk-Campaign"]
action = "divert"
stream = "{header:X-Listmonk-Campaign}"
[[webhook]]
name = "crm"
url = "` + server.URL + `/events"
events = ["sent", "deferred", "bounced", "complaint"]
[[webhook]]
name = "listmonk"
url = "` + server.URL + `/webhooks/bounce"
form = "listmonk"
`},
	})
	var to []string
	for _, local := range []string{"bounce", "complain", "defer", "deliver"} { // none has a part in what becomes of another
		to = append(to, local+"@simulated.test")
	}
	qid := r.send("news@lab.test", to, "X-Listmonk-Campaign: "+campaign+"\r\n"+news("simulated"))
	if line := r.verdict(qid); !strings.Contains(line, "nrcpt=4") {
		t.Errorf("the verdict: %s", line)
	}
	r.until("all is told", func() bool { mu.Lock(); defer mu.Unlock(); return len(h.words()) >= 5 && len(bounces) >= 2 })
	got := h.words()
	if i := slices.Index(got, "complain@simulated.test complaint"); i < slices.Index(got, "complain@simulated.test sent") {
		t.Errorf("a complaint before what it is about: %q", got)
	}
	slices.Sort(got)
	want := []string{"bounce@simulated.test bounced", "complain@simulated.test complaint", "complain@simulated.test sent", "defer@simulated.test deferred", "deliver@simulated.test sent"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for _, events := range h.taken {
		for _, e := range events {
			if !e.Simulated || e.Stream != campaign {
				t.Errorf("%+v", e)
			}
		}
	}
	slices.Sort(bounces)
	if want := []string{"bounce@simulated.test hard millrace " + campaign + " <nil>", "complain@simulated.test complaint millrace " + campaign + " <nil>"}; !slices.Equal(bounces, want) {
		t.Errorf("%q", bounces)
	}
	r.reportSays(r.mailbox("news@lab.test", 1)[0].Content, "Final-Recipient: rfc822; bounce@simulated.test\n", "550 5.1.1 simulated: user unknown")
	if n := len(r.all()); n > 0 {
		t.Errorf("%d copies have left the host", n)
	}
	if lines, err := r.Postfix.LogLines("/smtp[", "simulated.test"); err != nil || len(lines) > 0 {
		t.Errorf("%v; Postfix has seen to it: %q", err, lines)
	}
	// The restriction is in force for all others.
	c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(r.ctx, "news@lab.test", []string{"a@nowhere.test"}, []byte(news("nowhere"))); err == nil || !strings.Contains(err.Error(), "Domain not found") {
		t.Errorf("%v", err)
	}
}
