package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// net/http lets a client whose request is too long read the answer: it waits half
// a second before it closes the connection.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// fixed is a backend with n messages.
type fixed struct {
	n    int
	told chan MilterReport
}

func (f fixed) Status() Status { return Status{Version: "1", Waiting: f.n} }

func (f fixed) Messages(ctx context.Context, yield func(*Message) error) error {
	for i := range f.n {
		if err := yield(&Message{ID: fmt.Sprint("M", i), Sender: strings.Repeat("x", 500)}); err != nil {
			return err
		}
	}
	return nil
}

func (f fixed) Streams() []Stream { return []Stream{{Name: "s", Waiting: f.n, Paused: "why"}} }

func (f fixed) Set(s Setting) error {
	if *s.Priority > f.n {
		return fmt.Errorf("priority %d of %s is too high", *s.Priority, s.Stream)
	}
	return nil
}

func (f fixed) Cancel(_ context.Context, x Filter) (Selected, error) {
	return Selected{Recipients: f.n, Active: len(x.User)}, nil
}

func (f fixed) WebLink() (string, error) {
	if f.n == 0 {
		return "", errors.New("the status page is off")
	}
	return "http://127.0.0.1:8891/enter?token=x", nil
}

func (f fixed) Milter(r MilterReport) {
	if f.told != nil {
		f.told <- r
	}
}

func (f fixed) Why(site string) ([]Change, error) {
	if site != "google, x" {
		return nil, fmt.Errorf("site %s: %w", site, ErrUnknown)
	}
	return []Change{{From: 1, To: 2, Cause: "because"}}, nil
}

func TestAdminsRequests(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	ctx := t.Context()
	if list, err := c.Streams(ctx); err != nil || len(list) != 1 || list[0] != (Stream{Name: "s", Waiting: 7, Paused: "why"}) {
		t.Errorf("streams %+v, %v", list, err)
	}
	seven, eight := 7, 8
	if err := c.Set(ctx, Setting{Stream: "s", Priority: &seven}); err != nil {
		t.Error(err)
	}
	if err := c.Set(ctx, Setting{Stream: "s", Priority: &eight}); err == nil || !strings.Contains(err.Error(), "priority 8 of s is too high") {
		t.Errorf("an error of the agent came as %v", err)
	}
	if done, err := c.Cancel(ctx, Filter{User: "joe"}); err != nil || done != (Selected{7, 3}) {
		t.Errorf("cancelled %+v, %v", done, err)
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
	if err := client(t, open(t, f)).Milter(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got := <-f.told; !reflect.DeepEqual(got, want) {
		t.Errorf("the agent was told %+v, not %+v", got, want)
	}
}

func TestRequestsThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	for _, body := range []string{"", "nonsense", `{"colour": 1}`, `{"user": "` + strings.Repeat("x", 1<<19) + `"}`} {
		resp, err := c.do(t.Context(), "POST", "/v1/cancel", strings.NewReader(body))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%.20q was taken", body)
		}
	}
}

func open(t *testing.T, b Backend) string {
	t.Helper()
	address := "unix:" + filepath.Join(t.TempDir(), "run", "control.sock")
	s, err := Listen(address, b, slog.New(slog.DiscardHandler))
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
	err := c.Messages(t.Context(), func(m *Message) error {
		if m.ID != fmt.Sprint("M", n) {
			t.Fatalf("message %d is %s", n, m.ID)
		}
		n++
		return nil
	})
	if err != nil || n != 1000 {
		t.Errorf("%d messages, %v", n, err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.Waiting != 1000 {
		t.Errorf("status %+v, %v", st, err)
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

func TestClientThatHasEnoughStops(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	err := client(t, open(t, fixed{n: 100_000})).Messages(t.Context(), func(*Message) error { return enough })
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
