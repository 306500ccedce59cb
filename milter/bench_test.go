package milter_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/milter"
)

// BenchmarkMessage measures the milter without an MTA: 8 KB messages in the
// packets of Postfix, over 20 connections, into a real spool. The time of this
// process includes the client's, which is a few small copies.
func BenchmarkMessage(b *testing.B) {
	for _, c := range []struct{ name, from, answer string }{
		{"left", "<stay@b.example>", "a"},
		{"diverted", "<a@b.example>", "-a"},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkMessage(b, c.from, c.answer) })
	}
}

func benchmarkMessage(b *testing.B, from, answer string) {
	dir := b.TempDir()
	w, err := spool.OpenWriter(filepath.Join(dir, "spool"), spool.WriterOptions{MinFree: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	server, err := milter.New(divertAll(), milter.Options{Spool: milter.FromWriter(w), Key: loopKey, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, ln) }()

	header, body := postfixMessage(from)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime(b)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := benchmarkClient(ln.Addr().String(), header, body, answer, func() bool { return next.Add(1) <= int64(b.N) }); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	if err := w.Close(); err != nil {
		b.Error(err)
	}
}

// cpuTime is the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// postfixMessage is a message as Postfix sends it, up to the end of the header
// and after it.
func postfixMessage(from string) (header, body []byte) {
	p := appendPacket(nil, 'D', "M{auth_authen}", "joe", "{mail_addr}", "a@b.example", "{mail_host}", "b.example", "{mail_mailer}", "smtp")
	p = appendPacket(p, 'M', from, "SIZE=8192")
	p = appendPacket(p, 'D', "Ri", "4XyZ3q2sPxz1", "{rcpt_addr}", "c@d.example", "{rcpt_host}", "d.example", "{rcpt_mailer}", "smtp")
	p = appendPacket(p, 'R', "<c@d.example>")
	p = appendPacket(p, 'D', "Ti", "4XyZ3q2sPxz1")
	p = appendPacket(p, 'T')
	for i, name := range []string{"From", "To", "Subject", "Date", "Message-Id", "MIME-Version", "Content-Type", "List-Id", "List-Unsubscribe", "Precedence", "X-Mailer", "X-Campaign"} {
		p = appendPacket(p, 'L', name, fmt.Sprintf(" some value of ordinary length number %d", i))
	}
	p = appendPacket(p, 'D', "Ni", "4XyZ3q2sPxz1")
	p = appendPacket(p, 'N')
	b := appendPacket(bodyPacket(8192/64), 'D', "Ei", "4XyZ3q2sPxz1")
	return p, appendPacket(b, 'E')
}

// benchmarkClient sends messages while more says so.
func benchmarkClient(addr string, header, body []byte, answer string, more func() bool) error {
	c, err := net.Dial("unix", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := newRawMTA(c)
	if err != nil {
		return err
	}
	for more() {
		m.Write(header)
		if answer[0] == '-' {
			if err := m.expect("c"); err != nil {
				return err
			}
			m.Write(body)
		}
		if err := m.expect(answer); err != nil {
			return err
		}
		m.Write(appendPacket(nil, 'A'))
	}
	return nil
}
