package webhook

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
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
	"github.com/millrace/millrace/agent/eventlog"
	"github.com/millrace/millrace/agent/spool"
)

// TestHourOfTroubleLosesNothing has, in virtual time, an hour of load on a receiver that is
// killed, slow, at fault, says that it is busy, and refuses one event for good.
func TestHourOfTroubleLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &receiver{key: testSecret}
		begin := time.Now()
		at := func() int { return int(time.Since(begin) / time.Minute) }
		var mu sync.Mutex
		ill, busy := 0, 0 // requests in these times
		count := func(n *int) { mu.Lock(); defer mu.Unlock(); *n++ }
		x.do = func(r *http.Request, body []byte) int {
			switch m := at(); {
			case strings.Contains(string(body), `"bad@far.test"`):
				return http.StatusBadRequest
			case m >= 10 && m < 15: // slow, and too slow every third time
				if time.Now().Unix()%3 == 0 {
					time.Sleep(45 * time.Second)
				} else {
					time.Sleep(2 * time.Second)
				}
			case m >= 15 && m < 20: // the wait that comes of it may last to minute 25
				count(&ill)
				return http.StatusInternalServerError
			case m >= 30 && m < 32:
				count(&busy)
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
			if i == 4500 {
				who = "bad@far.test"
			} else {
				want = append(want, who)
			}
			r.s.Delivery(delivery(i, "s"+strconv.Itoa(i%4), who, event.Sent))
			if i == 10500 { // the agent is started anew while the receiver is away
				r.stop()
				most = cap(r.s.hooks[0].window)
				r.start(hook)
			}
			time.Sleep(200 * time.Millisecond)
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
		// Events come a hundred a request when there are many, and waits grow: the five minutes of 500 took
		// few requests.
		if ill < 5 || ill > 15 || busy < 2 || busy > 12 {
			t.Errorf("%d requests in five minutes of 500, %d in two of 429", ill, busy)
		}
		r.stop()
		if most = max(most, cap(r.s.hooks[0].window)); most == 0 || most > 2*readEvents {
			t.Errorf("%d events in memory", most)
		}
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
		synctest.Wait()
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
		synctest.Wait()
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
		synctest.Wait()
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
		synctest.Wait()
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
		if i == 0 {
			r.until("the first try", func() bool { return !r.s.Status()[0].Since.IsZero() })
		}
		if i%20 == 19 {
			if err := r.s.events.Load().Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	// It is told while the receiver is away. What the webhook has read it still has.
	r.until("the log tells", func() bool { return strings.Contains(r.log.String(), "events are lost") })
	st := r.s.Status()[0]
	if why := st.trouble(time.Now().Add(failingAfter)); st.Lost == 0 || st.Lost+st.Waiting > 400 || !strings.Contains(why, fmt.Sprintf("%d events wait, %d are lost", st.Waiting, st.Lost)) {
		t.Errorf("%+v, %q", st, why)
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
	st = r.s.Status()[0]
	r.stop()
	r.start(crm(server.URL))
	if again := r.s.Status()[0].Lost; again != st.Lost {
		t.Errorf("%d are lost, after a restart %d", st.Lost, again)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	events := len(x.order) - len(gaps)
	if len(gaps) != 1 || st.Lost == 0 || gaps[0].Lost != st.Lost || int(st.Lost)+events != 400 || gaps[0].ID != "" {
		t.Errorf("%d events, gaps %+v, %+v", events, gaps, st)
	}
	if why := st.trouble(time.Now()); !strings.Contains(why, "events are lost") {
		t.Errorf("%q", why)
	}
}

// A loss in the middle of what was read counts when the webhook has passed it, once, whatever
// happens in between.
func TestLossIsCountedOnce(t *testing.T) {
	t.Parallel()
	l := &listmonk{ill: "after@far.test"}
	server := httptest.NewServer(l)
	defer server.Close()
	r := newRig(t, Options{})
	hook := config.Webhook{Name: "listmonk", URL: server.URL + "/webhooks/bounce", Form: config.FormListmonk, Events: []string{"bounced"}, User: "api", Password: "t0ken"}
	r.start()
	r.s.Use(Policy{Hooks: []config.Webhook{hook}})
	r.stop()
	r.s = New(r.o)
	r.s.Use(Policy{Hooks: []config.Webhook{hook}})
	r.s.Delivery(delivery(1, "news", "before@far.test", event.Bounced))
	r.s.events.Load().Add(&eventlog.Record{Time: time.Now(), Event: eventlog.Gap, Due: time.Now(), Lost: 7})
	r.s.Delivery(delivery(2, "news", "after@far.test", event.Bounced))
	r.s.Close()
	for range 3 {
		r.start(hook)
		r.until("the first is taken", func() bool { st := r.s.Status()[0]; return st.Taken == 1 && st.Why != "" && st.Lost == 7 })
		// What a receiver says is told to all who may ask how the agent is.
		if st := r.s.Status()[0]; !strings.HasPrefix(st.Why, "500 ") || strings.Contains(st.trouble(time.Now().Add(failingAfter)), "after@") {
			t.Errorf("%q", st.Why)
		}
		r.stop()
	}
	l.cure()
	r.start(hook)
	r.until("both are taken", func() bool { st := r.s.Status()[0]; return st.Taken == 2 && st.Lost == 7 && st.Waiting == 0 })
	if n := strings.Count(r.log.String(), "events=7"); n != 4 { // at each start
		t.Errorf("told %d times", n)
	}
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
	// It knows no ids, so the place is written for each event.
	var written state
	if err := read(filepath.Join(r.o.StateDirectory, "webhooks", "listmonk.json"), &written); err != nil || written.Taken != 3 {
		t.Errorf("%+v, %v", written, err)
	}
	if answer, err := r.s.Test(t.Context(), "listmonk"); err != nil || answer != "200 OK" {
		t.Errorf("%q, %v", answer, err)
	}
	if strings.Contains(r.log.String(), "t0ken") {
		t.Error("the password is in the log")
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
	// Another secret, and another name of this host, hold for the next request.
	hook.Keys = [][]byte{[]byte("another secret of thirty-two octets")}
	b.mu.Lock()
	b.key = "whsec_" + base64.StdEncoding.EncodeToString(hook.Keys[0])
	b.mu.Unlock()
	for i, host := range []string{"mail.example.com", "mail2.example.com"} {
		r.s.Use(Policy{Hooks: []config.Webhook{hook}, Hostname: host})
		r.s.Delivery(delivery(4+i, "news", host+"@far.test", event.Sent))
		r.until("taken", func() bool { return b.taken() == 2+i })
		b.mu.Lock()
		if len(b.wrong) > 0 || !strings.Contains(b.last, `"host":"`+host+`"`) {
			t.Errorf("%q, %s", b.wrong, b.last)
		}
		b.mu.Unlock()
	}
	dir := filepath.Join(r.o.StateDirectory, "webhooks")
	if _, err := os.Stat(filepath.Join(dir, "other.json")); err == nil {
		t.Error("the place of one that was removed stays")
	}
	r.s.Use(Policy{})
	if _, err := os.Stat(dir); err == nil {
		t.Error("events stay that are for nobody")
	}
	r.s.Delivery(delivery(4, "news", "five@far.test", event.Sent))
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

// Each webhook gets the events that it names, of the streams that it names; case does not matter.
func TestOnlyWhatIsAskedForIsPosted(t *testing.T) {
	t.Parallel()
	a, b := &receiver{}, &receiver{}
	first, second := httptest.NewServer(a), httptest.NewServer(b)
	defer first.Close()
	defer second.Close()
	r := newRig(t, Options{})
	news, sent := crm(first.URL), crm(second.URL)
	news.Name, news.Streams = "news", []string{"news-*"}
	sent.Name, sent.Events = "sent", []string{"sent"}
	r.start(news, sent)
	for i, stream := range []string{"news-1", "shop", "NEWS-2"} {
		r.s.Delivery(delivery(i, stream, stream+"@far.test", event.Sent))
		r.s.Delivery(delivery(i, stream, stream+".b@far.test", event.Bounced))
		r.s.Delivery(delivery(i, stream, stream+".d@far.test", event.Deferred))
	}
	r.until("all is taken", func() bool {
		st := r.s.Status()
		return st[0].Waiting == 0 && st[1].Waiting == 0 && a.taken() == 4 && b.taken() == 3
	})
	if !slices.Equal(a.order, []string{"news-1@far.test", "news-1.b@far.test", "NEWS-2@far.test", "NEWS-2.b@far.test"}) ||
		!slices.Equal(b.order, []string{"news-1@far.test", "shop@far.test", "NEWS-2@far.test"}) {
		t.Errorf("%q, %q", a.order, b.order)
	}
}

// An event that cannot be set aside, since that cannot be written, is not passed.
func TestEventIsPassedOnceItIsSetAside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &receiver{do: func(_ *http.Request, body []byte) int {
			if strings.Contains(string(body), `"bad@far.test"`) {
				return http.StatusBadRequest
			}
			return http.StatusOK
		}}
		net, served := serve(x)
		r := newRig(t, Options{Dial: net.dial})
		aside := filepath.Join(r.o.StateDirectory, "webhooks", asideDir)
		r.start(crm("http://192.168.0.1/"))
		if err := os.WriteFile(aside, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.s.Delivery(delivery(1, "news", "bad@far.test", event.Sent))
		r.s.Delivery(delivery(2, "news", "good@far.test", event.Sent))
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := r.s.Status()[0]; st.Waiting != 2 || x.taken() != 0 || !strings.Contains(st.trouble(time.Now()), "cannot be set aside") {
			t.Errorf("%d taken, %+v", x.taken(), st)
		}
		if err := os.Remove(aside); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if st := r.s.Status()[0]; st.Waiting != 0 || x.taken() != 1 || len(st.Aside) != 1 {
			t.Errorf("%d taken, %+v", x.taken(), st)
		}
		// An address that is forgotten goes from the list, too.
		if n, err := r.s.Forget(t.Context(), "bad@far.test"); err != nil || n != 2 || len(r.s.Status()[0].Aside) != 0 {
			t.Errorf("%d, %v, %+v", n, err, r.s.Status()[0])
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

// A replay begins with the first event of the time that is asked for.
func TestReplayBeginsWhereItIsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &receiver{}
		net, served := serve(x)
		r := newRig(t, Options{Dial: net.dial, SegmentSize: 2 << 10})
		r.start(crm("http://192.168.0.1/"))
		for i := range 300 {
			r.s.Delivery(delivery(i, "news", fmt.Sprintf("r%d@far.test", i), event.Sent))
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if n, err := r.s.Replay(t.Context(), "crm", time.Now().Add(-100*time.Minute)); err != nil || n != 100 {
			t.Errorf("%d, %v", n, err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		twice := 0
		for _, n := range x.times {
			twice += n - 1
		}
		if len(x.times) != 300 || twice != 100 || x.requests > 300+5 {
			t.Errorf("%d events, %d again, %d requests", len(x.times), twice, x.requests)
		}
		// Also while others wait for the receiver, which come in their place then.
		x.set(func(*http.Request, []byte) int { return http.StatusServiceUnavailable })
		for i := range 5 {
			r.s.Delivery(delivery(300+i, "news", fmt.Sprintf("r%d@far.test", 300+i), event.Sent))
		}
		time.Sleep(time.Minute)
		if n, err := r.s.Replay(t.Context(), "crm", time.Now().Add(-12*time.Minute)); err != nil || n != 15 {
			t.Errorf("%d, %v", n, err)
		}
		x.set(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		again := 0
		for _, n := range x.times {
			again += n - 1
		}
		if len(x.times) != 305 || again != twice+10 || r.s.Status()[0].Waiting != 0 {
			t.Errorf("%d events, %d again, %+v", len(x.times), again-twice, r.s.Status()[0])
		}
		if n, err := r.s.Replay(t.Context(), "crm", time.Now()); err == nil {
			t.Errorf("%d", n)
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

// A cursor of a place that no log reaches is one that cannot be read: what the log has is posted
// again, and what comes later is posted too.
func TestCursorBeyondAllLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "webhooks"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"cursor":{"Segment":%d,"Offset":9,"Seq":%[1]d},"taken":7}`, uint64(math.MaxUint64))
	if err := os.WriteFile(filepath.Join(dir, "webhooks", "crm.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Options{StateDirectory: dir, Log: slog.New(slog.DiscardHandler)})
	s.Use(Policy{Hooks: []config.Webhook{crm("http://127.0.0.1:1/")}, Hostname: "mail.lab.test"})
	defer s.Close()
	s.Delivery(&event.Delivery{Status: event.Bounced, Time: time.Now(), To: "a@far.test"})
	if err := s.events.Load().Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); len(st) != 1 || st[0].Waiting != 1 {
		t.Errorf("%+v", st)
	}
}
