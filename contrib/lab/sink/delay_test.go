package sink

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestDelayLineKeepsFlightsApartAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		rtt := time.Second
		d := &delayLine{Conn: server, rtt: func() time.Duration { return rtt }, closed: make(chan struct{})}
		start := time.Now()
		d.Write([]byte("1"))
		time.Sleep(300 * time.Millisecond)
		d.Write([]byte("2"))
		rtt = 0
		d.Write([]byte("3")) // must not overtake
		buf := make([]byte, 8)
		for i, want := range []time.Duration{1000, 1300, 1300} {
			k, err := client.Read(buf)
			if err != nil || string(buf[:k]) != string(rune('1'+i)) || time.Since(start) != want*time.Millisecond {
				t.Errorf("flight %d: %q at %v, %v", i, buf[:k], time.Since(start), err)
			}
		}
		d.drain()
	})
}

func TestDelayLineDrainsBeforeTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		d := &delayLine{Conn: server, rtt: func() time.Duration { return time.Minute }, closed: make(chan struct{})}
		d.Write([]byte("bye"))
		go func() {
			d.drain()
			server.Close()
		}()
		if got, err := io.ReadAll(client); string(got) != "bye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestDelayLineDoesNotOutliveItsInternet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		client.Close()
		closed := make(chan struct{})
		d := &delayLine{Conn: server, rtt: func() time.Duration { return time.Hour }, closed: closed}
		start := time.Now()
		d.Write([]byte("never"))
		close(closed)
		d.drain()
		if took := time.Since(start); took != 0 {
			t.Errorf("drained after %v", took)
		}
	})
}
