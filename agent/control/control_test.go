package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// net/http lets a client whose request is too long read the answer: it waits half
// a second before it closes the connection.
func TestMain(m *testing.M) {
	leaks.Main(m)
}

// fixed is a backend with n messages.
type fixed struct {
	n    int
	told chan MilterReport
}

func (f fixed) Status() Status { return Status{Version: "1", Waiting: f.n} }

func (f fixed) Totals() Totals { return Totals{Queues: []QueueTotals{{Name: "google", Sent: f.n}}} }

func (f fixed) Messages(ctx context.Context, x Filter, yield func(*Message) error) error {
	if !x.Empty() {
		return yield(&Message{Sender: fmt.Sprintf("%+v", x)})
	}
	for i := range f.n {
		if err := yield(&Message{ID: fmt.Sprint("M", i), Sender: strings.Repeat("x", 500)}); err != nil {
			return err
		}
	}
	return nil
}

func (f fixed) Streams() []Stream { return []Stream{{Name: "s", Waiting: f.n, Paused: "why"}} }

func (f fixed) Shape(_ context.Context, by string, x Filter) ([]Shape, error) {
	s := Shape{Name: by + " of " + x.String()}
	for range f.n {
		s.Add(7 * time.Minute)
	}
	return []Shape{s}, nil
}

func (f fixed) Standing() StandingOrders {
	return StandingOrders{Pauses: []Pause{{Filter: Filter{All: true}, Reason: "why"}}, Limits: []Limit{{Name: "google", Sessions: f.n}}}
}

// Pause tells who asked.
func (f fixed) Pause(ctx context.Context, b Pause) error {
	return fmt.Errorf("%s because of %s: not for %s", b.Filter, b.Reason, PeerOf(ctx))
}

func (f fixed) Resume(_ context.Context, x Filter) ([]Pause, error) {
	return []Pause{{Filter: x, Until: time.Unix(5, 0).UTC()}}, nil
}

func (f fixed) Forget(_ context.Context, name string) (int, error) { return f.n, nil }

func (f fixed) Limit(_ context.Context, l Limit) error {
	if l.Sessions > f.n {
		return fmt.Errorf("%s: %w", l.Name, ErrUnknown)
	}
	return nil
}

func (f fixed) Prioritize(_ context.Context, p Priority) error {
	if p.Priority > f.n {
		return fmt.Errorf("priority %d of %s is too high", p.Priority, p.Stream)
	}
	return nil
}

func (f fixed) WebLink() (string, error) {
	if f.n == 0 {
		return "", errors.New("the status page is off")
	}
	return "http://127.0.0.1:8891/enter?token=x", nil
}

func (f fixed) Milter(r MilterReport) MilterAnswer {
	if f.told != nil {
		f.told <- r
	}
	return MilterAnswer{InletKnown: true, InletBypassed: "always_bcc"}
}

// Act says 1, 2 ... of n, and fails for state "stuck".
func (f fixed) Act(_ context.Context, o Action, tell func(Selected)) (done Selected, err error) {
	for done.Recipients < f.n {
		done.Recipients++
		tell(done)
	}
	if o.Filter.State == "stuck" {
		err = errors.New("stuck")
	}
	done.Messages, done.Active = len(o.Verb), len(o.Filter.User)
	return done, err
}

func (f fixed) ReloadConfig(context.Context) error { return errors.New("millrace.toml:7: no") }

func (f fixed) Why(site string) ([]Change, error) {
	if site != "google, x" {
		return nil, fmt.Errorf("site %s: %w", site, ErrUnknown)
	}
	return []Change{{From: 1, To: 2, Cause: "because"}}, nil
}

func (f fixed) FindSite(_ context.Context, text string) (SiteFound, error) {
	if text != "mx.google.example" {
		return SiteFound{}, fmt.Errorf("site %s: %w", text, ErrUnknown)
	}
	return SiteFound{Name: "google", Addresses: []string{"192.0.2.1"}}, nil
}

func TestAdminsRequests(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	ctx := t.Context()
	if list, err := c.Streams(ctx); err != nil || len(list) != 1 || list[0] != (Stream{Name: "s", Waiting: 7, Paused: "why"}) {
		t.Errorf("streams %+v, %v", list, err)
	}
	if err := c.Prioritize(ctx, Priority{Stream: "s", Priority: 7}); err != nil {
		t.Error(err)
	}
	if err := c.Prioritize(ctx, Priority{Stream: "s", Priority: 8}); err == nil || !strings.Contains(err.Error(), "priority 8 of s is too high") {
		t.Errorf("an error of the agent came as %v", err)
	}
	if st, err := c.Standing(ctx); err != nil || st.Pauses[0].Filter != (Filter{All: true}) || st.Limits[0].Sessions != 7 {
		t.Errorf("standing %+v, %v", st, err)
	}
	if left, err := c.Resume(ctx, Filter{User: "joe"}); err != nil || len(left) != 1 || left[0].Filter.User != "joe" || left[0].Until != time.Unix(5, 0).UTC() {
		t.Errorf("resumed, %+v left, %v", left, err)
	}
	if err := c.Limit(ctx, Limit{Name: "google", Sessions: 8}); !errors.Is(err, ErrUnknown) {
		t.Errorf("limit: %v", err)
	}
	if err := c.Reload(ctx); err == nil || !strings.Contains(err.Error(), "millrace.toml:7: no") {
		t.Errorf("reload: %v", err)
	}
	if list, err := c.Why(ctx, "google, x"); err != nil || len(list) != 1 || list[0].Cause != "because" {
		t.Errorf("why %+v, %v", list, err)
	}
	if link, err := c.WebLink(ctx); err != nil || link != "http://127.0.0.1:8891/enter?token=x" {
		t.Errorf("link %q, %v", link, err)
	}
	if _, err := client(t, open(t, fixed{})).WebLink(ctx); err == nil || !strings.Contains(err.Error(), "is off") {
		t.Errorf("a link to a page that is off: %v", err)
	}
	if x, err := c.Totals(ctx); err != nil || len(x.Queues) != 1 || x.Queues[0] != (QueueTotals{Name: "google", Sent: 7}) {
		t.Errorf("totals %+v, %v", x, err)
	}
	list, err := c.Shape(ctx, "sender", Filter{State: "deferred"})
	if want := (Shape{Name: "sender of state deferred", Total: 7, ByAge: [10]int{1: 7}}); err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("shape %+v, %v", list, err)
	}
	if _, err := c.Shape(ctx, "colour", Filter{}); err == nil {
		t.Error("a shape by colour")
	}
	if x, err := c.FindSite(ctx, "mx.google.example"); err != nil || x.Name != "google" || len(x.Addresses) != 1 {
		t.Errorf("find: %v, %v", x, err)
	}
	if _, err := c.FindSite(ctx, "other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("find: %v", err)
	}
	if _, err := c.Why(ctx, "other"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "other") {
		t.Errorf("unknown site: %v", err)
	}
}

func TestMiltersReportArrives(t *testing.T) {
	t.Parallel()
	f := fixed{told: make(chan MilterReport, 1)}
	want := MilterReport{
		HostMail:     map[string]int{"big.test": 2},
		MilterCounts: MilterCounts{Messages: map[string]uint64{"leave": 3}, Recipients: 4, Connections: 5},
	}
	answer, err := client(t, open(t, f)).Milter(t.Context(), want)
	if err != nil || !answer.InletKnown || answer.InletBypassed != "always_bcc" {
		t.Fatalf("%+v, %v", answer, err)
	}
	if got := <-f.told; !reflect.DeepEqual(got, want) {
		t.Errorf("the agent was told %+v, not %+v", got, want)
	}
}

func TestOrderTellsItsProgress(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	var seen []int
	progress := func(n Selected) { seen = append(seen, n.Recipients) }
	done, err := c.Act(t.Context(), Action{Verb: VerbCancel, Filter: Filter{User: "joe"}}, progress)
	if err != nil || done != (Selected{7, len("cancel"), 3}) || fmt.Sprint(seen) != "[1 2 3 4 5 6 7]" {
		t.Errorf("%+v, %v after %v", done, err, seen)
	}
	if done, err := c.Act(t.Context(), Action{Verb: VerbHold, Filter: Filter{State: "stuck"}}, nil); err == nil || err.Error() != "stuck" || done.Recipients != 7 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestChangesAreLoggedWithWhoMadeThem takes the kernel's word for it.
func TestChangesAreLoggedWithWhoMadeThem(t *testing.T) {
	t.Parallel()
	var log logbuf.Buffer
	c := client(t, openLogged(t, fixed{n: 7}, log.Logger()))
	who := fmt.Sprintf("(uid %d)", os.Getuid())
	if err := c.Pause(t.Context(), Pause{Filter: Filter{Stream: "sale"}, Reason: "price"}); err == nil || !strings.Contains(err.Error(), who) {
		t.Errorf("the agent was told %v", err)
	}
	if err := c.Prioritize(t.Context(), Priority{Stream: "s", Priority: 7}); err != nil {
		t.Error(err)
	}
	for _, dry := range []bool{true, false} {
		if _, err := c.Act(t.Context(), Action{Verb: VerbExpire, Filter: Filter{Domain: "a.example"}, Dry: dry}, nil); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{
		`level=WARN msg=admin do=pause who="`, `request="{\"filter\":{\"stream\":\"sale\"},\"reason\":\"price\"}" err=`,
		`level=INFO msg=admin do=priority`, `\"domain\":\"a.example\"`, fmt.Sprintf("pid=%d", os.Getpid()),
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in\n%s", want, log.String())
		}
	}
	if n := strings.Count(log.String(), "msg=admin"); n != 3 {
		t.Errorf("%d lines, want 3: a count changes nothing\n%s", n, log.String())
	}
}

func TestRequestsThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	for _, body := range []string{"", "nonsense", `{"colour": 1}`, `{"reason": "` + strings.Repeat("x", 1<<19) + `"}`} {
		resp, err := c.do(t.Context(), "POST", "/v1/pause", strings.NewReader(body))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%.20q was taken", body)
		}
	}
}

func open(t *testing.T, b Backend) string { return openLogged(t, b, slog.New(slog.DiscardHandler)) }

func openLogged(t *testing.T, b Backend, log *slog.Logger) string {
	t.Helper()
	address := "unix:" + filepath.Join(t.TempDir(), "run", "control.sock")
	s, err := Listen(address, b, log)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return address
}

func client(t *testing.T, address string) *Client {
	c := NewClient(address)
	t.Cleanup(c.Close)
	return c
}

func TestEveryMessageIsListed(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 1000}))
	n := 0
	err := c.Messages(t.Context(), Filter{}, func(m *Message) error {
		if m.ID != fmt.Sprint("M", n) {
			t.Fatalf("message %d is %s", n, m.ID)
		}
		n++
		return nil
	})
	if err != nil || n != 1000 {
		t.Errorf("%d messages, %v", n, err)
	}
	var lines strings.Builder
	if err := c.Lines(t.Context(), Filter{}, &lines); err != nil || strings.Count(lines.String(), "\n") != 1000 || !strings.Contains(lines.String(), `"queue_id":"M999"`) {
		t.Errorf("%d octets of lines, %v", lines.Len(), err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Waiting != 1000 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestFilterArrivesAsItWasMeant(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	want := Filter{
		All: true, ID: "M1-A0", Stream: "a & b = ü", Queue: "q", Site: "s", Domain: "d", Sender: "<>", Recipient: "r@x",
		User: "u", Client: "2001:db8::1", State: "held", OlderThan: Age(36 * time.Hour), Text: "t",
	}
	err := c.Messages(t.Context(), want, func(m *Message) error {
		if m.Sender != fmt.Sprintf("%+v", want) {
			t.Errorf("%+v arrived as %s", want, m.Sender)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"nonsense", `{"colour":1}`, `{"older_than":5}`} {
		if resp, err := c.get(t.Context(), "/v1/queue?filter="+url.QueryEscape(bad)); err == nil {
			resp.Body.Close()
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestReaderThatStopsHoldsUpNobody(t *testing.T) {
	t.Parallel()
	address := open(t, fixed{n: 100_000})
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /v1/queue HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 100)); err != nil { // the listing has begun; the rest is never read
		t.Fatal(err)
	}
	if _, err := client(t, address).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestListingIsNotAheadOfItsReader has a reader that takes a write and then waits: the
// backend is asked for no more than a buffer holds.
func TestListingIsNotAheadOfItsReader(t *testing.T) {
	t.Parallel()
	const most = listingBuffer/1000 + 1 // of messages of 1,000 octets and more
	c := &counted{}
	s := &Server{backend: c, log: slog.New(slog.DiscardHandler), mux: http.NewServeMux()}
	s.routes()
	w := &slow{ResponseRecorder: httptest.NewRecorder(), writing: make(chan struct{}), take: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.mux.ServeHTTP(w, httptest.NewRequest("GET", "/v1/queue", nil))
	}()
	for read := 0; ; {
		select {
		case <-w.writing: // the handler stands in Write
		case <-done:
			if lines := strings.Count(w.Body.String(), "\n"); lines != 10_000 {
				t.Errorf("%d lines", lines)
			}
			return
		}
		if c.given > read+most {
			t.Fatalf("%d messages were given when %d had been read", c.given, read)
		}
		read = c.given
		w.take <- struct{}{}
	}
}

// counted is a backend that counts the messages it has given away, of 10,000.
type counted struct {
	fixed
	given int
}

func (c *counted) Messages(_ context.Context, _ Filter, yield func(*Message) error) error {
	for range 10_000 {
		c.given++
		if err := yield(&Message{Sender: strings.Repeat("x", 1000)}); err != nil {
			return err
		}
	}
	return nil
}

// slow is a connection to a client that tells of each write, and takes it when it likes.
type slow struct {
	*httptest.ResponseRecorder
	writing, take chan struct{}
}

func (s *slow) Write(b []byte) (int, error) {
	s.writing <- struct{}{}
	<-s.take
	return s.ResponseRecorder.Write(b)
}

func TestClientThatHasEnoughStops(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	err := client(t, open(t, fixed{n: 100_000})).Messages(t.Context(), Filter{}, func(*Message) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestSocketIsForOwnerAndGroup(t *testing.T) {
	t.Parallel()
	fi, err := os.Stat(strings.TrimPrefix(open(t, fixed{}), "unix:"))
	if err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestSocketOfADeadAgentIsReplaced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := client(t, "unix:"+path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("asking a dead agent: %v", err)
	}
	s, err := Listen("unix:"+path, fixed{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
}

func TestOnlyUnixSocketsAreServed(t *testing.T) {
	t.Parallel()
	if _, err := Listen("inet:8000@127.0.0.1", fixed{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a control socket on the network")
	}
}
