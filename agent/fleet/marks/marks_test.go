package marks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/agent/fleet/peer"
	"github.com/millrace/millrace/agent/trace"
	"github.com/millrace/millrace/contrib/lab/leaks"
	"github.com/millrace/millrace/contrib/lab/selfsigned"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// key is a node's.
func key(node string) []byte { return fmt.Appendf(nil, "%-*s", keySize, node) }

// book is that of the node b, with nodes that answer what say has.
func book(spool string, say map[string][][]byte, nodes func() []string) *Book {
	return Open(Options{
		Log: slog.New(slog.DiscardHandler), Spool: spool, Node: "b", Own: key("b"), Nodes: nodes,
		Get: func(_ context.Context, node string) (Published, error) {
			if keys, ok := say[node]; ok {
				return Published{keys}, nil
			}
			return Published{}, errors.New("no answer")
		},
	})
}

func names(list []trace.Member) string {
	var s []string
	for _, m := range list {
		s = append(s, m.Node+"="+strings.TrimSpace(string(m.Key)))
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// What members say is known, kept over a restart, and found by the milter; it is a secret.
func TestKeysAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	say := map[string][][]byte{
		"a": {key("a"), key("b"), []byte("short"), key("a2")},
		"c": {key("c")},
		"b": {key("evil")},
	}
	b := book(dir, say, func() []string { return []string{"a", "b", "c", "d"} })
	if list, err := Read(dir, time.Now()); err != nil || list != nil {
		t.Errorf("without a file: %v, %v", list, err)
	}
	b.ask(t.Context(), time.Now())
	const want = "a=a a=a2 c=c"
	if got := names(b.Members()); got != want {
		t.Errorf("%s", got)
	}
	list, err := Read(dir, time.Now())
	if got := names(list); err != nil || got != want {
		t.Errorf("the milter reads %s, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, file))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if got := names(book(dir, nil, nil).Members()); got != want {
		t.Errorf("after a restart: %s", got)
	}
	if list, _ := Read(dir, time.Now().Add(Keep+time.Hour)); len(list) > 0 {
		t.Errorf("after 30 days: %v", names(list))
	}
	if list, _ := Read(dir, time.Now().Add(Keep-time.Hour)); names(list) != want {
		t.Errorf("before that: %v", names(list))
	}
}

func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	say := map[string][][]byte{}
	var nodes []string
	for i := range most {
		n := fmt.Sprintf("n%d", i)
		nodes = append(nodes, n)
		for j := range 100 {
			say[n] = append(say[n], key(fmt.Sprint(n, "-", j)))
		}
	}
	b := book(t.TempDir(), say, func() []string { return nodes })
	b.ask(t.Context(), time.Now())
	if n := len(b.Members()); n != most {
		t.Errorf("%d keys", n)
	}
}

// A file that is damaged is told of, and begun anew.
func TestDamagedFileIsBegunAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir, time.Now()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remedy") {
		t.Error(err)
	}
	b := book(dir, map[string][][]byte{"a": {key("a")}}, func() []string { return []string{"a"} })
	b.ask(t.Context(), time.Now())
	if list, err := Read(dir, time.Now()); err != nil || names(list) != "a=a" {
		t.Errorf("%v, %v", names(list), err)
	}
}

// A member that is new is asked at once, all others every ten minutes, one that does not answer
// soon and then every minute; the milter hears of it.
func TestMembersAreAskedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		var mu sync.Mutex
		nodes, asked := []string{"a", "away"}, map[string]int{}
		known := ""
		b := Open(Options{
			Log: slog.New(slog.DiscardHandler), Spool: dir, Node: "b", Own: key("b"),
			Nodes: func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(nodes) },
			Get: func(_ context.Context, node string) (Published, error) {
				mu.Lock()
				defer mu.Unlock()
				if asked[node]++; node == "away" {
					return Published{}, errors.New("no answer")
				}
				return Published{[][]byte{key(node)}}, nil
			},
		})
		ctx, end := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { b.Run(ctx) })
		done.Go(func() {
			Watch(ctx, dir, slog.New(slog.DiscardHandler), func(list []trace.Member) { mu.Lock(); defer mu.Unlock(); known = names(list) })
		})
		after := func(d time.Duration, want map[string]int, keys string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(asked) != fmt.Sprint(want) || known != keys {
				t.Errorf("asked %v, want %v; the milter knows %q", asked, want, known)
			}
		}
		after(6*time.Second, map[string]int{"a": 1, "away": 2}, "a=a")
		mu.Lock()
		nodes = append(nodes, "c")
		mu.Unlock()
		after(12*time.Second, map[string]int{"a": 1, "away": 3, "c": 1}, "a=a c=c")
		after(10*time.Minute, map[string]int{"a": 2, "away": 14, "c": 2}, "a=a c=c")
		end()
		done.Wait()
	})
}

// A node gives its key to members alone, over TLS.
func TestKeysGoToMembersAlone(t *testing.T) {
	t.Parallel()
	ca, err := selfsigned.NewAuthority("authority")
	if err != nil {
		t.Fatal(err)
	}
	identity := func(node string) *peer.Identity {
		p, err := ca.Issue(selfsigned.Leaf{DNS: []string{node}})
		if err != nil {
			t.Fatal(err)
		}
		auth, cert, key, err := ca.Write(t.TempDir(), node, p)
		if err != nil {
			t.Fatal(err)
		}
		return peer.NewIdentity(peer.Files{Fleet: "f", Node: node, CA: auth, Cert: cert, Key: key}, slog.New(slog.DiscardHandler))
	}
	member := func(node string) bool { return node == "a" || node == "b" }
	a := Open(Options{Log: slog.New(slog.DiscardHandler), Spool: t.TempDir(), Node: "a", Own: key("a")})
	s := peer.NewServer(peer.ServerOptions{Address: "127.0.0.1:0", Identity: identity("a"), Member: member, Log: slog.New(slog.DiscardHandler)})
	s.Handle("GET /v1/marks", a.Handler())
	ctx, end := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { s.Run(ctx) })
	defer served.Wait()
	defer end()
	for s.Addr() == nil {
		time.Sleep(time.Millisecond)
	}
	get := func(node string) (p Published, err error) {
		c := peer.NewClient(peer.ClientOptions{
			Identity: identity(node), Member: func(string) bool { return true }, Address: func(string) string { return s.Addr().String() },
		})
		defer c.Close()
		err = c.Call(t.Context(), "a", http.MethodGet, "/v1/marks", nil, &p)
		return p, err
	}
	if p, err := get("b"); err != nil || len(p.Keys) != 1 || !bytes.Equal(p.Keys[0], key("a")) {
		t.Errorf("%v, %v", p, err)
	}
	if p, err := get("stranger"); err == nil || p.Keys != nil {
		t.Errorf("%v, %v", p, err)
	}
}
