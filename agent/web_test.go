package agent

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// TestStatusPageTellsWhatHappens follows mail that is delivered, bounced and
// throttled onto the page of a real agent.
func TestStatusPageTellsWhatHappens(t *testing.T) {
	s := newStage(t, func(c *config.Config) {
		c.Agent.HTTP.Listen = config.Listeners{freePort(t)}
		c.Replies = []config.Reply{{Name: "busy-rule", Text: "come back later", Action: config.ReplySuspend, For: time.Hour}}
	},
		sink.Provider{Name: "far", Domains: []string{"far.test"}},
		sink.Provider{Name: "gone", Domains: []string{"gone.test"}, Behaviour: sink.Behaviour{
			PermShare: 1, Say: map[sink.Cause]string{"perm": "550 5.1.1 <script>alert(1)</script> no secret.name@gone.test here"}}},
		sink.Provider{Name: "dead", Domains: []string{"dead.test"}, Behaviour: sink.Behaviour{Down: true}},
		sink.Provider{Name: "nodns", Domains: []string{"nodns.test"}, Behaviour: sink.Behaviour{DNS: "servfail"}},
		sink.Provider{Name: "busy", Domains: []string{"busy.test"}, Behaviour: sink.Behaviour{
			TempShare: 1, Say: map[sink.Cause]string{"temp": "451 4.7.1 come back later, write to secret.name@busy.test"}}},
	)
	browser := &http.Client{}
	t.Cleanup(browser.CloseIdleConnections)
	get := func(url string) (int, string) {
		t.Helper()
		var code int
		var b []byte
		s.until("there is an answer", func() bool { // see page
			resp, err := browser.Get(url)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			code = resp.StatusCode
			b, err = io.ReadAll(resp.Body)
			return err == nil
		})
		return code, string(b)
	}
	s.start()
	for _, to := range []string{"a@far.test", "secret.name@gone.test", "secret.name@busy.test", "b@dead.test", "c@nodns.test"} {
		s.send(spool.Envelope{Sender: "secret.name@news.test", Stream: `Sale "<b>" <sale.test>`}, letter, to)
	}
	front := "http://" + s.config.Agent.HTTP.Listen.First()
	var overview string
	for _, part := range []string{
		"2 of 5", "suspended until", "refused the connection", "no mail server is known yet",
		"busy-rule: ", "connection refused", "Sale &#34;&lt;b&gt;&#34; &lt;sale.test&gt;", "userunknown", "mail.lab.test",
	} {
		s.until("the overview says "+part, func() bool {
			_, overview = get(front + "/")
			return strings.Contains(overview, part)
		})
	}
	pages := []string{overview}
	for _, site := range s.status().Sites {
		s.until(site.Name+" is explained", func() bool { // the page may be a second old
			code, text := get(front + "/site?" + url.Values{"name": {site.Name}}.Encode())
			pages = append(pages, text)
			return code == http.StatusOK && strings.Count(text, "<time>") >= 2
		})
	}
	code, text := get(front + "/failures")
	if code != http.StatusForbidden {
		t.Errorf("without a cookie, failures answer %d", code)
	}
	for _, page := range append(pages, text) {
		if strings.Contains(page, "secret.name") || strings.Contains(page, "<script>alert") {
			t.Errorf("shown to all:\n%s", page)
		}
	}

	client := control.NewClient(s.config.Agent.Control)
	defer client.Close()
	link, err := client.WebLink(t.Context())
	if err != nil || !strings.HasPrefix(link, front+"/enter?token=") {
		t.Fatalf("link %q, %v", link, err)
	}
	if browser.Jar, err = cookiejar.New(nil); err != nil {
		t.Fatal(err)
	}
	if code, text = get(link); code != http.StatusOK || !strings.Contains(text, "secret.name@gone.test") ||
		!strings.Contains(text, "secret.name@busy.test") || !strings.Contains(text, "&lt;script&gt;") || strings.Contains(text, "<script>alert") {
		t.Errorf("with a link, %d:\n%s", code, text)
	}
}

// TestReaderDoesNotHoldUpAStop leaves a page open that is kept up to date.
func TestReaderDoesNotHoldUpAStop(t *testing.T) {
	s := newStage(t, func(c *config.Config) { c.Agent.HTTP.Listen = config.Listeners{freePort(t)} })
	s.start()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.config.Agent.HTTP.Listen.First()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	browser := &http.Client{Transport: new(http.Transport)}
	resp, err := browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.stop()
	io.Copy(io.Discard, resp.Body) // ends, however
}

func TestLinkToAPageThatIsOffIsRefusedWithARemedy(t *testing.T) {
	t.Parallel()
	s := newStage(t, nil)
	s.start()
	client := control.NewClient(s.config.Agent.Control)
	defer client.Close()
	if _, err := client.WebLink(t.Context()); err == nil || !strings.Contains(err.Error(), "remedy: set listen") {
		t.Errorf("got %v", err)
	}
}
