package webhook

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/event"
)

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

// A receiver may end a connection that is kept for the next request, just when that is sent. That
// is no failure of the receiver.
func TestKeptConnectionThatEndsIsNoFailure(t *testing.T) {
	t.Parallel()
	x := &receiver{}
	var mu sync.Mutex
	requests := map[string]int{} // of a connection
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests[r.RemoteAddr]++
		n := requests[r.RemoteAddr]
		mu.Unlock()
		if n == 2 {
			panic(http.ErrAbortHandler)
		}
		x.ServeHTTP(w, r)
	}))
	defer server.Close()
	r := newRig(t, Options{})
	r.start(crm(server.URL))
	for i := range 3 {
		r.s.Delivery(delivery(i, "news", fmt.Sprintf("r%d@far.test", i), event.Sent))
		r.until("it is taken", func() bool { return x.taken() == i+1 })
	}
	mu.Lock()
	defer mu.Unlock()
	if log := r.log.String(); strings.Contains(log, "is not taken") || len(requests) != 3 {
		t.Errorf("%d connections\n%s", len(requests), log)
	}
}

// A receiver that does not answer is given up after half a minute; one that says when to come again
// is not called before, but after an hour at most. What it says so of one event is not heard.
func TestReceiverIsWaitedForAsItAsks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		x := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			switch at = append(at, time.Now()); len(at) {
			case 1:
				<-r.Context().Done()
			case 2:
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusServiceUnavailable)
			case 3:
				w.Header().Set("Retry-After", time.Now().Add(100*24*time.Hour).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusTooManyRequests)
			case 4: // of the request alone, which is to hold up no other
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusBadRequest)
			}
		})
		net, served := serve(x)
		r := newRig(t, Options{Dial: net.dial})
		r.start(crm("http://192.168.0.1/"))
		r.s.Delivery(delivery(1, "news", "a@far.test", event.Sent))
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if len(at) != 5 {
			t.Fatalf("%v", at)
		}
		for i, want := range []time.Duration{requestFor, 120 * time.Second, maxRetryAfter, 0} {
			if got := at[i+1].Sub(at[i]); got < want || got > want+maxWait/100 {
				t.Errorf("%v, want %v", got, want)
			}
		}
		r.stop()
		net.server.Close()
		<-served
	})
}

// A request is bounded in octets unless one event alone has more.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	of := func(sizes ...int) (list []item) {
		for _, n := range sizes {
			list = append(list, item{json: make([]byte, n)})
		}
		return list
	}
	for _, c := range []struct {
		size, want int
		window     []item
	}{
		{100, 2, of(100<<10, 100<<10, 100<<10)}, {100, 1, of(300<<10, 1)}, {100, 1, of(1, 300<<10)}, {2, 2, of(1, 1, 1)}, {100, 3, of(1, 1, 1)},
	} {
		h := &hook{size: c.size, window: c.window}
		if got := h.fits(); got != c.want {
			t.Errorf("%d, want %d", got, c.want)
		}
	}
}

// A refusal is of the request; everything else that is not 2xx says that the receiver cannot.
func TestAnswersSayWhoIsAtFault(t *testing.T) {
	t.Parallel()
	for code := range 600 {
		a := answer{code: code}
		refused := code >= 400 && code < 500 && code != 408 && code != 425 && code != 429
		if a.taken() != (code >= 200 && code < 300) || a.refused() != refused {
			t.Errorf("%d: taken %v, refused %v", code, a.taken(), a.refused())
		}
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
