package inlet_test

import (
	"net"
	"testing"
)

// Who must go is told where mail goes instead.
func TestStopNamesTheHostMTA(t *testing.T) {
	t.Parallel()
	s := serve(t)
	c := s.dial()
	c.hello()
	done := make(chan struct{})
	go func() { s.stop(); close(done) }()
	_, port, err := net.SplitHostPort(s.mta.addr)
	if err != nil {
		t.Fatal(err)
	}
	c.wants("421 4.3.2 service is shutting down; 127.0.0.1 port " + port + " takes mail meanwhile")
	<-done
}
