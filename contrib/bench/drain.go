package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/inject"
	"github.com/millrace/millrace/contrib/lab/ledger"
	"github.com/millrace/millrace/contrib/lab/sink"
)

// drain fills a spool with n messages, starts the agent and waits until all is delivered, and
// for a time after that.
func drain(ctx context.Context, b *bench, to []sink.Provider, n, size int, after time.Duration, change ...func(*lab.MillraceOptions)) (f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	m := b.draining()
	m.Set["handback.relay"] = `"127.0.0.1:10626"` // nobody listens, and nobody needs it
	for _, c := range change {
		c(m)
	}
	h, err := start(ctx, world{providers: to, millrace: m, asleep: true})
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, h) }()
	g := &inject.Generator{Seed: 1, Domains: domains(bulkDomains), MinSize: size}
	if err := fill(ctx, h.Millrace.Spool(), g, n, &h.sent); err != nil {
		return f, err
	}
	if err := h.Millrace.Agent.Start(ctx); err != nil {
		return f, err
	}
	if err := h.arrived(ctx, n); err != nil {
		return f, err
	}
	if after > 0 {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return f, context.Cause(ctx)
		}
	}
	f.each = h.kill().per(n)
	f.rate = rateOf(h.Internet.Ledger())
	return f, h.agree()
}

// spoolWriters is how many messages are being appended at the same time.
const spoolWriters = 32

// fill writes the messages 0 to n-1 into the spool in dir, as the milter would.
func fill(ctx context.Context, dir string, g *inject.Generator, n int, sent *ledger.Ledger) (err error) {
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	var next atomic.Int64
	workers, ctx := errgroup.WithContext(ctx)
	for range spoolWriters {
		workers.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := appendTo(ctx, w, i, g.Message(i), sent); err != nil {
					return err
				}
			}
		})
	}
	return workers.Wait()
}

func appendTo(ctx context.Context, w *spool.Writer, i int, m *inject.Message, sent *ledger.Ledger) error {
	e := &spool.Envelope{
		Sender: m.Sender, Stream: "bench", Arrived: time.Now(),
		QueueID: fmt.Sprintf("B%d", i), ClientName: "localhost", ClientAddr: "127.0.0.1", Helo: "injector.test",
		Protocol: "ESMTP", ByHost: lab.Hostname,
	}
	var digest ledger.Digest
	_, _ = digest.Write(m.Content)
	id, sum := digest.Sum()
	record := ledger.Message{ID: id, Sender: []byte(m.Sender), Hash: sum, Time: e.Arrived, Size: digest.Size()}
	for _, to := range m.Recipients {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: to})
		record.Recipients = append(record.Recipients, []byte(to))
	}
	r, err := w.Append(ctx, e, bytes.NewReader(m.Content))
	if err != nil {
		return err
	}
	sent.Add(&record)
	return r.Release()
}

// smtpSource lets Postfix's load generator send as many messages as drain.
func smtpSource(ctx context.Context, b *bench, size int) (f flow, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	h, err := start(ctx, world{providers: ideal()})
	if err != nil {
		return f, err
	}
	defer func() { err = joinClose(err, h) }()
	n := b.backlogOf(size)
	// -d: a session sends many messages, as the agent's do.
	cmd := exec.CommandContext(ctx, "/usr/sbin/smtp-source", "-d",
		"-s", strconv.Itoa(b.sessions), "-m", strconv.Itoa(n), "-l", strconv.Itoa(size),
		"-f", "bounce@news.sender.test", "-t", "user@d0.example",
		net.JoinHostPort(h.Internet.Stats().Hosts[0].Addr, "25"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return f, fmt.Errorf("smtp-source: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := h.arrived(ctx, n); err != nil {
		return f, err
	}
	f.each = cost{sender: cpuOf(cmd)}.per(n)
	f.rate = rateOf(h.Internet.Ledger())
	return f, nil
}

// rateOf is messages a second from the first in the ledger to the last.
func rateOf(l *ledger.Ledger) float64 {
	var first, last time.Time
	n := 0
	for r := range l.Records() {
		if n == 0 || r.Time.Before(first) {
			first = r.Time
		}
		if r.Time.After(last) {
			last = r.Time
		}
		n++
	}
	return float64(n-1) / last.Sub(first).Seconds()
}
