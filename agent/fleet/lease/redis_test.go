package lease

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// server is a redis-server of the test's own, spoken to over its Unix socket.
type server struct {
	conn net.Conn
	r    *bufio.Reader
	sha  string
}

func startServer(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "", "--appendonly", "no")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("redis-server is needed (contrib/lab/deps/install redis-server): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = log.Close() })
	s := &server{}
	for range 500 {
		if s.conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.conn.Close() })
	s.r = bufio.NewReaderSize(s.conn, 1<<16)
	sha, err := s.do("SCRIPT", "LOAD", Script)
	if err != nil {
		t.Fatal(err)
	}
	s.sha = sha.(string)
	return s
}

// do sends one command and reads its reply, by the protocol RESP2.
func (s *server) do(args ...any) (any, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		text := fmt.Sprint(a)
		if octets, ok := a.([]byte); ok {
			text = string(octets)
		}
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(text), text)
	}
	if _, err := io.WriteString(s.conn, b.String()); err != nil {
		return nil, err
	}
	return s.read()
}

func (s *server) read() (any, error) {
	line, err := s.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	line = strings.TrimRight(line, "\r\n")
	switch line[0] {
	case '+':
		return line[1:], nil
	case '-':
		return nil, fmt.Errorf("redis-server: %s", line[1:])
	case ':':
		return strconv.ParseInt(line[1:], 10, 64)
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil {
		return nil, err
	}
	if line[0] == '$' {
		text := make([]byte, n+2)
		_, err := io.ReadFull(s.r, text)
		return string(text[:n]), err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], err = s.read(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// call executes a call; run and unique stand for the server's own where they are not empty.
func (s *server) call(c *Call, run, unique string) (*Reply, error) {
	args := c.Args()
	args[1], args[2] = run, unique
	v, err := s.do(append([]any{"EVALSHA", s.sha, 1, c.Key()}, args...)...)
	if err != nil {
		return nil, err
	}
	return ParseReply(v)
}

// The calls of random histories have equal replies of script and twin. Copies that the histories bring back
// are left out: those are about data, of which both have the same.
func TestScriptAndTwinAgree(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	calls, kinds := 0, make(map[string]int)
	for seed := range uint64(20) {
		if _, err := s.do("FLUSHALL"); err != nil {
			t.Fatal(err)
		}
		history(900_000+seed, func(w *world) {
			w.each = func(empty bool, c *Call, want *Reply) {
				if empty {
					if _, err := s.do("FLUSHALL"); err != nil {
						t.Fatal(err)
					}
				}
				calls++
				kinds[want.Why]++
				got, err := s.call(c, w.store.Run, w.call)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, call %d %+v:\nscript %+v\ntwin   %+v", seed, calls, c, got, want)
				}
			}
		})
	}
	t.Logf("%d calls: %v", calls, kinds)
	for _, why := range []string{"", Hello, Left, Recovery, Unknown} {
		if kinds[why] == 0 {
			t.Errorf("no reply was %q: the histories show too little", why)
		}
	}
}

// What the test hands in above the script finds out itself: a server that was restarted has other data.
func TestScriptKnowsItsServer(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := &Call{Fleet: "f", Node: "a", N: 1}
	first, err := s.call(c, "", "")
	if err != nil || first.Why != Hello || first.Epoch.N != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := s.call(c, "", "")
	if err != nil || again.Epoch != first.Epoch || again.Token == first.Token {
		t.Errorf("%+v, %v, want the same epoch and another token", again, err)
	}
	dump, err := s.do("HGET", c.Key(), "")
	if err != nil {
		t.Fatal(err)
	}
	other := startServer(t)
	if _, err := other.do("HSET", c.Key(), "", dump); err != nil {
		t.Fatal(err)
	}
	moved, err := other.call(c, "", "")
	if err != nil || moved.Epoch.N != 2 {
		t.Errorf("%+v, %v, want the next epoch", moved, err)
	}
}

// A record of another form, of a former script or damaged, costs its own limit the lease, not all of them the store.
func TestRecordOfAnotherFormCountsAsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	c := &Call{Fleet: "f", Node: "a", ID: "a1", Nodes: 1, N: 1}
	r, err := s.call(c, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"l:one", "c:2026-11-29:two"} {
		if _, err := s.do("EVAL", "return redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack({e = 'x', last = 1, m = {}}))", "1", c.Key(), field); err != nil {
			t.Fatal(err)
		}
	}
	for n := int64(2); n < 5; n++ {
		c = &Call{Fleet: "f", Node: "a", ID: "a1", Nodes: 1, Token: r.Token, N: n, Epoch: r.Epoch,
			Asks: []Ask{{Field: "l:one", Limit: 10, Want: 20}, {Field: "c:2026-11-29:two", Count: true, Limit: 100, Want: 7}}}
		if r, err = s.call(c, "", ""); err != nil || len(r.Grants) != 2 {
			t.Fatalf("call %d: %+v, %v", n, r, err)
		}
	}
}

// The script's time with 10,000 limits, of three members that want more than their floors.
func BenchmarkScript(b *testing.B) {
	s := startServer(b)
	var members []*Member
	for i := range 3 {
		m := begin("", nil, Options{Fleet: "f", Node: string(rune('a' + i)), Nodes: 3, Boot: func() time.Duration { return time.Hour }})
		m.replace = func(string, []byte) error { return nil }
		var list []Demand
		for k := range 10_000 {
			list = append(list, Demand{Key: fmt.Sprintf("queue/general/site%d.example", k), Limit: 20, Want: 20})
		}
		m.Want(list)
		members = append(members, m)
	}
	i := 0
	for b.Loop() {
		m := members[i%3]
		i++
		c := m.Call()
		r, err := s.call(c, "", "")
		if err != nil {
			b.Fatal(err)
		}
		m.Done(c, r, nil)
	}
	b.StopTimer()
	// The clock on the wall tells little on a machine that is busy otherwise.
	if info, err := s.do("INFO", "cpu"); err == nil {
		for line := range strings.Lines(info.(string)) {
			if used, ok := strings.CutPrefix(strings.TrimSpace(line), "used_cpu_user:"); ok {
				if seconds, err := strconv.ParseFloat(used, 64); err == nil {
					b.ReportMetric(1000*seconds/float64(i), "server-ms/op")
				}
			}
		}
	}
}
