package pipes

import (
	"errors"
	"io"
	"net"
	"testing"
)

func TestConnectionsReachTheServerUntilItCloses(t *testing.T) {
	t.Parallel()
	l := New()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.WriteString(c, "220 here\r\n")
			c.Close()
		}
		served <- err
	}()
	if b, err := io.ReadAll(l.Dial()); err != nil || string(b) != "220 here\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if b, err := io.ReadAll(l.Dial()); err != nil || len(b) > 0 {
		t.Errorf("after Close: %q, %v", b, err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
