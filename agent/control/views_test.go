package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// nodes is a fleet of a test: where each node answers, "" where none does.
type nodes map[string]string

func (n nodes) Node() string { return "a" }

func (n nodes) Nodes() []string {
	list := []string{"a"}
	for node := range n {
		list = append(list, node)
	}
	return list
}

func (n nodes) Get(ctx context.Context, node, path string) (io.ReadCloser, error) {
	if n[node] == "" {
		return nil, errors.New("connection refused")
	}
	req, err := http.NewRequestWithContext(ctx, "GET", n[node]+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, errors.New(resp.Status)
	}
	return resp.Body, nil
}

// answering is a node of a test.
func answering(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close(); http.DefaultClient.CloseIdleConnections() })
	return s.URL
}

// ofFleet serves an agent whose fleet has these nodes.
func ofFleet(t *testing.T, b Backend, f Nodes, patience time.Duration) *Client {
	t.Helper()
	address := "unix:" + filepath.Join(t.TempDir(), "s")
	s, err := Listen(address, b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.ShowFleet(f)
	if patience > 0 {
		s.patience = patience
	}
	var served sync.WaitGroup
	served.Go(func() { s.Serve() })
	t.Cleanup(func() { s.Close(); served.Wait() })
	return client(t, address)
}

func TestViewsAreOfAllNodes(t *testing.T) {
	t.Parallel()
	c := ofFleet(t, fixed{n: 3}, nodes{
		"b": answering(t, Views(fixed{n: 20_000}, slog.New(slog.DiscardHandler))),
		"c": answering(t, Views(fixed{}, slog.New(slog.DiscardHandler))),
	}, 0)
	for view, want := range map[string]map[string]int{
		ViewQueue:    {"a": 3, "b": 20_000},
		ViewStreams:  {"a": 1, "b": 1, "c": 1},
		ViewStanding: {"a": 1, "b": 1, "c": 1},
		ViewLimits:   {},
	} {
		got := map[string]int{}
		missing, err := c.ViewOfFleet(t.Context(), view, Filter{}, func(node string, item json.RawMessage) error { got[node]++; return nil })
		if err != nil || len(missing) > 0 || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v, %v", view, got, missing, err)
		}
	}
	var senders []string
	_, err := c.ViewOfFleet(t.Context(), ViewQueue, Filter{User: "joe", OlderThan: Age(time.Hour)}, func(node string, item json.RawMessage) error {
		var m Message
		err := json.Unmarshal(item, &m)
		senders = append(senders, m.Sender)
		return err
	})
	if want := (Filter{User: "joe", OlderThan: Age(time.Hour)}); err != nil || len(senders) != 3 || senders[1] != fmt.Sprintf("%+v", want) {
		t.Errorf("the filter arrived as %q, %v", senders, err)
	}
	if _, err := c.ViewOfFleet(t.Context(), "secrets", Filter{}, nil); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

// A node that does not answer, or not to its end, is named, and holds up no other.
func TestNodesThatDoNotAnswerAreNamed(t *testing.T) {
	t.Parallel()
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	c := ofFleet(t, fixed{n: 3}, nodes{
		"dead":  "",
		"older": answering(t, http.NewServeMux()),
		"mute":  answering(t, http.HandlerFunc(hang)),
		"stops": answering(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "{\"queue_id\":\"M1\"}\n\n")
			http.NewResponseController(w).Flush()
			hang(w, r)
		})),
		"cut": answering(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "{\"queue_id\":\"M1\"}\n")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})),
		"odd":     answering(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>\n") })),
		"forging": answering(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{\"a\":1}},{\"node\":\"a\"\n") })),
	}, 300*time.Millisecond)
	got := map[string]int{}
	missing, err := c.ViewOfFleet(t.Context(), ViewQueue, Filter{}, func(node string, item json.RawMessage) error { got[node]++; return nil })
	if want := "map[a:3 cut:1 stops:1]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v", got, err)
	}
	slices.SortFunc(missing, func(a, b Unanswered) int { return strings.Compare(a.Node, b.Node) })
	for i, want := range []Unanswered{
		{"cut", "unexpected EOF"}, {"dead", "connection refused"}, {"forging", "no listing"}, {"mute", "no answer for 300ms"},
		{"odd", "no listing"}, {"older", "404"}, {"stops", "no answer for 300ms"},
	} {
		if i >= len(missing) || missing[i].Node != want.Node || !strings.Contains(missing[i].Why, want.Why) {
			t.Errorf("missing: %+v, want %+v", missing, want)
			break
		}
	}
}

// A view that takes long to find something is alive meanwhile; one that fails is not taken for all.
func TestSlowViewsAreAlive(t *testing.T) {
	t.Parallel()
	slow := searching{fixed{n: 2}, 2500 * time.Millisecond, nil}
	broken := searching{fixed{n: 2}, 0, errors.New("spool: cannot be read")}
	log := slog.New(slog.DiscardHandler)
	c := ofFleet(t, fixed{}, nodes{"slow": answering(t, Views(slow, log)), "broken": answering(t, Views(broken, log))}, 2*time.Second)
	got := map[string]int{}
	missing, err := c.ViewOfFleet(t.Context(), ViewQueue, Filter{}, func(node string, item json.RawMessage) error { got[node]++; return nil })
	if err != nil || len(missing) != 1 || missing[0].Node != "broken" || got["slow"] != 2 {
		t.Errorf("%v, %v, %v", got, missing, err)
	}
}

// searching is a backend that looks for a while, and may fail after its messages.
type searching struct {
	fixed
	wait time.Duration
	err  error
}

func (s searching) Messages(ctx context.Context, f Filter, yield func(*Message) error) error {
	time.Sleep(s.wait)
	return errors.Join(s.fixed.Messages(ctx, f, yield), s.err)
}

// Nothing under the views changes anything, or tells more than they do.
func TestViewsAreAllThatOtherNodesGet(t *testing.T) {
	t.Parallel()
	h := Views(fixed{n: 1}, slog.New(slog.DiscardHandler))
	for _, x := range []string{
		"POST /v1/fleet/queue", "POST /v1/pause", "POST /v1/act", "GET /v1/status", "GET /v1/queue", "GET /v1/suppress", "GET /v1/fleet/", "GET /v1/fleet/suppress", "POST /v1/weblink",
	} {
		method, path, _ := strings.Cut(x, " ")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("{}")))
		if w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %s", x, w.Code, w.Body)
		}
	}
}

func TestWithoutAFleetThereIsNoView(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 3}))
	if _, err := c.ViewOfFleet(t.Context(), ViewQueue, Filter{}, nil); err == nil || !strings.Contains(err.Error(), "remedy: name and listen in [fleet]") {
		t.Error(err)
	}
}
