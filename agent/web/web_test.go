package web

import (
	"bufio"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/history"
	"github.com/millrace/millrace/contrib/lab/pipes"
)

// handler is one over a backend, with a past.
func handler(b Backend) *Handler {
	return New(Options{Backend: b, History: past(time.Now()), Hostnames: func() []string { return []string{"status.example.com"} }})
}

var links = regexp.MustCompile(`href="[^"]*"`)

func TestHostilePartsAreShownAsText(t *testing.T) {
	t.Parallel()
	h := handler(busy(time.Now()))
	cookie := enter(t, h)
	for _, path := range []string{"/", siteLink(hostile), "/failures", siteLink("<script>none</script>")} {
		for _, trusted := range []bool{false, true} {
			w := ask(h, path, func(r *http.Request) {
				if trusted {
					r.AddCookie(cookie)
				}
			})
			body := w.Body.String()
			for _, bad := range []string{"<script>", "\" onmouseover", "\u202e", "\x00", "href=\"javascript"} {
				if strings.Contains(body, bad) {
					t.Errorf("%s, trusted %v: %q stands in\n%s", path, trusted, bad, body)
				}
			}
			if strings.Contains(path, "none") || path == "/failures" && !trusted {
				continue
			}
			if !strings.Contains(body, "&lt;script&gt;alert(1)&lt;/script&gt;") || !strings.Contains(body, "&lt;202E&gt;gnp.exe&lt;000D&gt;&lt;000A&gt;&lt;0000&gt;") {
				t.Errorf("%s, trusted %v: it is not shown at all\n%s", path, trusted, body)
			}
			// A link names its site in full, whoever looks.
			text := links.ReplaceAllString(body, "")
			if got := strings.Contains(text, "joe.secret"); got != trusted {
				t.Errorf("%s, trusted %v: the address is shown: %v", path, trusted, got)
			}
		}
	}
}

func TestLocalPartsAreLeftOut(t *testing.T) {
	t.Parallel()
	v := &view{}
	for in, want := range map[string]string{
		"550 <joe@example.com> unknown":              "550 <…@example.com> unknown",
		"for joe.bloggs+x=y@example.com; bye":        "for …@example.com; bye",
		`"joe bloggs"@example.com`:                   "…@example.com",
		"jöe@example.com,ann@example.org":            "…@example.com,…@example.org",
		"<@relay.example:joe@example.com>":           "<@relay.example:…@example.com>",
		"Weekly <weekly.news.example.com>":           "Weekly <weekly.news.example.com>",
		"joe\u202e@example.com":                      "…@example.com",
		strings.Repeat("x", 400) + "joe@example.com": "…@example.com",
		strings.Repeat("x ", 400):                    strings.Repeat("x ", 150) + "…",
		"\xff\xfe":                                   "??",
	} {
		if got := v.text(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestEveryAnswerIsGuarded(t *testing.T) {
	t.Parallel()
	h := handler(busy(time.Now()))
	for _, path := range []string{"/", "/site?name=google", "/site", "/failures", "/enter", "/static/style.css", "/static/live.js", "/none", "/static/../pages/frame.html"} {
		w := ask(h, path, nil)
		for name, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := w.Header().Get(name); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s: %q", path, name, got)
			}
		}
		csp := w.Header().Get("Content-Security-Policy")
		if strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: %s", path, csp)
		}
		if w.Header().Get("Content-Type") == "" {
			t.Errorf("%s has no type", path)
		}
	}
}

func TestOnlyOurOwnNamesAreServed(t *testing.T) {
	t.Parallel()
	h := handler(quiet())
	for host, want := range map[string]int{
		"127.0.0.1:8891": 200, "127.0.0.1": 200, "[::1]:8891": 200, "192.0.2.1:80": 200, "localhost:8891": 200, "LOCALHOST.": 200,
		"status.example.com": 200, "Status.example.com:443": 200,
		"evil.example": 421, "127.0.0.1.evil.example:8891": 421, "localhost.evil.example": 421, "": 421, "status.example.com.evil.example": 421,
	} {
		for _, path := range []string{"/", "/static/live.js", h.Link()} {
			w := ask(h, path, func(r *http.Request) { r.Host = host })
			if ok := w.Code < 400; ok != (want == 200) || !ok && w.Code != want {
				t.Errorf("%q %s: %d", host, path, w.Code)
			}
			if want == 421 && (len(w.Result().Cookies()) > 0 || strings.Contains(w.Body.String(), "Millrace")) {
				t.Errorf("%q %s is told: %s", host, path, w.Body)
			}
		}
	}
}

func TestNothingCanBeChanged(t *testing.T) {
	t.Parallel()
	h := handler(quiet())
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"} {
		if w := ask(h, "/", func(r *http.Request) { r.Method = method }); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

func TestLinkIsGoodOnceAndSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handler(quiet())
		link := h.Link()
		if w := ask(h, link, func(r *http.Request) { r.Method = http.MethodHead }); w.Code != 200 || len(w.Result().Cookies()) > 0 {
			t.Errorf("a preview: %d, %v", w.Code, w.Result().Cookies())
		}
		w := ask(h, link, nil)
		cookies := w.Result().Cookies()
		if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/failures" || len(cookies) != 1 {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		c := cookies[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || strings.Contains(link, c.Value) {
			t.Errorf("cookie %v for link %s", c, link)
		}
		if w := ask(h, link, nil); w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
			t.Errorf("used again: %d", w.Code)
		}
		late := h.Link()
		time.Sleep(linkLife)
		if w := ask(h, late, nil); w.Code != http.StatusForbidden {
			t.Errorf("used late: %d", w.Code)
		}
		for _, bad := range []string{"/enter", "/enter?token=", "/enter?token=" + c.Value} {
			if w := ask(h, bad, nil); w.Code != http.StatusForbidden {
				t.Errorf("%s: %d", bad, w.Code)
			}
		}
		failures := func() int { return ask(h, "/failures", func(r *http.Request) { r.AddCookie(c) }).Code }
		if got := failures(); got != 200 {
			t.Errorf("with a cookie: %d", got)
		}
		time.Sleep(sessionLife)
		if got := failures(); got != http.StatusForbidden {
			t.Errorf("with an old cookie: %d", got)
		}
	})
}

func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handler(quiet())
		first := h.Link()
		for range maxKeys {
			time.Sleep(time.Millisecond)
			h.Link()
		}
		if n := len(h.keys.links); n != maxKeys {
			t.Errorf("%d links", n)
		}
		if w := ask(h, first, nil); w.Code != http.StatusForbidden {
			t.Errorf("the oldest of too many: %d", w.Code)
		}
	})
}

// watch asks for a page's events.
func watch(t *testing.T, url string, change func(*http.Request)) (*http.Response, *bufio.Reader) {
	t.Helper()
	resp, in, err := watching(t, url, change)
	if err != nil {
		t.Fatal(err)
	}
	return resp, in
}

func watching(t *testing.T, url string, change func(*http.Request)) (*http.Response, *bufio.Reader, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if change != nil {
		change(r)
	}
	resp, err := new(http.Transport).RoundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp, bufio.NewReader(resp.Body), nil
}

// TestUpdatesOutliveTheServersDeadlines reads on for longer than the server lets
// a request take, which a slow machine may need for its beginning alone.
func TestUpdatesOutliveTheServersDeadlines(t *testing.T) {
	t.Parallel()
	var err error
	for deadline := time.Second; deadline < time.Minute; deadline *= 4 {
		if err = outlives(t, deadline); err == nil {
			return
		}
		t.Logf("deadlines of %v: %v", deadline, err)
	}
	t.Error(err)
}

func outlives(t *testing.T, deadline time.Duration) error {
	s, _ := serveWithin(t, busy(time.Now()), past(time.Now()), deadline)
	began := time.Now()
	resp, in, err := watching(t, s.URL+"/", nil)
	if err != nil {
		return err
	}
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%v", resp.Header)
	}
	for n := 0; n < 2 || time.Since(began) < 2*deadline; n++ {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, `data: "\u003c!doctype html`) || !strings.HasSuffix(line, "\"\n") {
			t.Fatalf("%.80q", line)
		}
		if blank, err := in.ReadString('\n'); err != nil {
			return err
		} else if blank != "\n" {
			t.Fatalf("%q", blank)
		}
	}
	return nil
}

func TestReadersAreBounded(t *testing.T) {
	t.Parallel()
	s, h := serve(t, quiet(), history.New(time.Now()))
	var last *http.Response
	for i := range maxLive {
		resp, _ := watch(t, s.URL+"/", nil)
		if resp.StatusCode != 200 {
			t.Fatalf("reader %d: %d", i, resp.StatusCode)
		}
		last = resp
	}
	if resp, _ := watch(t, s.URL+"/", nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: %d", resp.StatusCode)
	}
	if resp, err := http.Get(s.URL + "/"); err != nil || resp.StatusCode != 200 {
		t.Errorf("the page itself: %v", err)
	} else {
		resp.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	}
	last.Body.Close()
	h.lives <- struct{}{} // there is room again
	<-h.lives
}

func TestPagesOfOtherSitesGetNoUpdates(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, quiet(), history.New(time.Now()))
	for site, want := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		resp, _ := watch(t, s.URL+"/", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", site) })
		if resp.StatusCode != want {
			t.Errorf("%s: %d", site, resp.StatusCode)
		}
	}
}

// TestReaderThatStopsIsDropped never reads: the server gives the connection up
// after stall, in the time of a bubble, and others are served meanwhile.
func TestReaderThatStopsIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := handler(busy(time.Now()))
		l := pipes.New()
		server := &http.Server{Handler: h}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		here := l.Dial()
		if _, err := here.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it writes, and nobody reads
		if n := len(h.lives); n != 1 {
			t.Fatalf("%d readers", n)
		}
		if w := ask(h, "/", nil); w.Code != 200 {
			t.Errorf("others get %d", w.Code)
		}
		time.Sleep(stall)
		synctest.Wait()
		if n := len(h.lives); n != 0 {
			t.Errorf("%d readers are left", n)
		}
		server.Close()
		<-served
		here.Close()
	})
}

func TestLongListsAreCut(t *testing.T) {
	t.Parallel()
	b := quiet()
	for i := range 10_000 {
		name := fmt.Sprintf("mx%d.example", i)
		b.snapshot.Sites = append(b.snapshot.Sites, Site{Name: name, Waiting: i + 1, Held: Held{Reason: "dead", How: "no answer", Reply: "connection refused"}})
		b.snapshot.Streams = append(b.snapshot.Streams, Stream{Name: name, Waiting: i + 1})
		b.snapshot.Waiting += i + 1
	}
	h := New(Options{Backend: b, History: history.New(time.Now())})
	body := ask(h, "/", nil).Body.String()
	if !inOrder(body, "mx9999.example", "mx9990.example", "and 9,990 more: 9,990 dead.", "mx9999.example", "mx9950.example", "and 9950 more", "mx9950.example", "and 9950 more") {
		t.Errorf("the page is\n%s", body)
	}
	if n := len(body); n > 100_000 {
		t.Errorf("%d octets", n)
	}
}

func TestManyWhoLookAskTheAgentOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &counting{fixed: quiet()}
		h := handler(c)
		for range 10 {
			ask(h, "/", nil)
		}
		time.Sleep(time.Second)
		ask(h, "/", nil)
		if c.n != 2 {
			t.Errorf("the agent was asked %d times", c.n)
		}
	})
}

type counting struct {
	*fixed
	n int
}

func (c *counting) Snapshot() Snapshot {
	c.n++
	return c.fixed.Snapshot()
}
