// Package redisd runs a redis-server, or a valkey-server, for a test: [Start] gives one that is
// empty, on a Unix socket in a directory of its own. It keeps nothing on disk.
package redisd

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a running server.
type Server struct {
	Socket string
	t      *testing.T
	cmd    *exec.Cmd
}

// Start starts a server that ends with the test. The program must be installed: contrib/lab/deps.
func Start(t *testing.T) *Server {
	t.Helper()
	s := &Server{t: t, Socket: filepath.Join(t.TempDir(), "redis.sock")}
	s.Again()
	t.Cleanup(s.Stop)
	return s
}

// Again starts an empty server where one was stopped.
func (s *Server) Again() {
	s.t.Helper()
	program := "redis-server"
	if _, err := exec.LookPath(program); err != nil {
		program = "valkey-server"
	}
	s.cmd = exec.Command(program, "--port", "0", "--unixsocket", s.Socket, "--save", "", "--appendonly", "no", "--dir", filepath.Dir(s.Socket))
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("a store for the test: %v; remedy: apt-get install redis-server", err)
	}
	c := s.Client()
	defer c.Close()
	for deadline := time.Now().Add(time.Minute); c.Ping(context.Background()).Err() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not answer", program)
		}
	}
}

// Stop kills the server: nothing of what it had is left.
func (s *Server) Stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // it was killed
		s.cmd = nil
	}
}

// Client returns a client of the server; the caller closes it.
func (s *Server) Client() *redis.Client {
	return redis.NewClient(&redis.Options{
		Network: "unix", Addr: s.Socket, MaxRetries: -1,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.Socket)
		},
	})
}
