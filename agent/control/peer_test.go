package control

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDoorIsForRootOwnerAndGroup(t *testing.T) {
	t.Parallel()
	d := access{uid: 105, gid: 110}
	for _, x := range []struct {
		peer Peer
		want bool
	}{
		{Peer{UID: 0, GID: 0}, true},
		{Peer{UID: 105, GID: 105}, true},
		{Peer{UID: 1000, GID: 110}, true},
		{Peer{UID: 1000, GID: 1000, Groups: []uint32{4, 110}}, true},
		{Peer{UID: 1000, GID: 1000, Groups: []uint32{4, 105}}, false},
		{Peer{UID: 110, GID: 105}, false},
		{Peer{UID: 65534, GID: 65534}, false},
	} {
		if got := d.admits(x.peer); got != x.want {
			t.Errorf("%+v: %v", x.peer, got)
		}
	}
}

// TestStrangerIsRefusedWhateverTheMode asks as nobody, over a socket that its mode
// and directory let everybody connect to; one whose supplementary group is the
// socket's may do it. It needs root, as the lab does.
func TestStrangerIsRefusedWhateverTheMode(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Fatal("this test takes other user ids; run it as root")
	}
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	s, err := Listen("unix:"+path, fixed{n: 7}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	defer func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{
		"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"POST /v1/act HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 39\r\n\r\n{\"verb\":\"cancel\",\"filter\":{\"all\":true}}",
	} {
		got := askAs(t, path, 65534, 65534, nil, request)
		if !strings.HasPrefix(got, "HTTP/1.1 403") || !strings.Contains(got, "(uid 65534) may not do this; remedy: become root") {
			t.Errorf("nobody's %.12q was answered %q", request, got)
		}
	}
	if got := askAs(t, path, 65534, 65534, []int{12, 0, 34}, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("a member of the group was answered %q", got)
	}
}

// askAs sends a request as another user: credentials on Linux are a thread's, and a
// socket has those of the thread that connected it. The thread ends with its goroutine.
func askAs(t *testing.T, path string, uid, gid int, groups []int, request string) string {
	t.Helper()
	type answer struct {
		fd  int
		err error
	}
	connected := make(chan answer)
	go func() {
		runtime.LockOSThread() // and never unlocked
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = become(uid, gid, groups)
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		connected <- answer{fd, err}
	}()
	a := <-connected
	if a.err != nil {
		t.Fatal(a.err)
	}
	f := os.NewFile(uintptr(a.fd), "socket")
	defer f.Close()
	if _, err := io.WriteString(f, request); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// FuzzRequests wants an answer, and not one that the server broke down, to whatever
// an admin's tool may send.
func FuzzRequests(f *testing.F) {
	for _, path := range []string{"pause", "resume", "limit", "priority", "reload", "milter", "act"} {
		f.Add("POST", path, "", []byte(`{"verb":"cancel","filter":{"all":true,"older_than":"36h"}}`))
	}
	f.Add("GET", "queue", `filter={"state":"held"}`, []byte(nil))
	f.Add("GET", "queue", "filter=%00", []byte(nil))
	f.Add("GET", "why", "site=google", []byte(nil))
	f.Add("POST", "milter", "", []byte(`{"a":1e400}`))
	s := &Server{backend: fixed{n: 3}, log: slog.New(slog.DiscardHandler), mux: http.NewServeMux()}
	s.routes()
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		r := httptest.NewRequest(http.MethodGet, "/", bytes.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawQuery = method, "/v1/"+path, query
		w := httptest.NewRecorder()
		s.mux.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %s?%s %q: %d %s", method, path, query, body, w.Code, w.Body)
		}
		if path == "act" && w.Code == http.StatusOK && !strings.Contains(w.Body.String(), `"end":true`) {
			t.Errorf("an order without an end: %s", w.Body)
		}
	})
}
