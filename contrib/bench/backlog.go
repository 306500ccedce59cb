package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/sink"
)

const aboutBacklog = `The agent starts on a spool full of single-recipient messages in %d domains, with nothing
of it in the page cache. *first delivery* is from the start of the process to the first message at a receiver,
*all read* to when the agent has taken up the whole backlog, *memory* its peak resident set until then. The receivers
are slow, so that every round finds the backlog nearly whole. At the end the agent is started once more, and when it has
read all, the receivers take everything at once: the *drain rate* is of as many times %v as there are rounds.`

// drainFor is how long the rate of a drain is measured.
const drainFor = 3 * time.Second

const million = 1_000_000

// backlogs are the spools the agent is started on.
func (b *bench) backlogs() []pile {
	list := []pile{{n: million, size: 8 << 10}}
	if b.quick {
		list = []pile{{n: 10_000, size: 8 << 10}, {n: 10_000, size: 500, deferred: 0.5}}
	}
	if b.huge {
		list = append(list, pile{n: 10 * million, size: 500, deferred: 0.5})
	}
	return list
}

// pile is a backlog: messages, octets each, and the share that waits for a retry.
type pile struct {
	n, size  int
	deferred float64
}

func (p pile) String() string {
	s := fmt.Sprintf("%d messages of %d octets", p.n, p.size)
	if p.deferred > 0 {
		s += fmt.Sprintf(", %.0f%% deferred", 100*p.deferred)
	}
	return s
}

// beginning is how a start went.
type beginning struct {
	first, read time.Duration
	memory      float64 // octets
}

func (s beginning) String() string {
	return fmt.Sprintf("first delivery after %v, all read after %v, %.0f MB", s.first.Round(time.Millisecond), s.read.Round(time.Millisecond), s.memory/1e6)
}

func backlog(ctx context.Context, b *bench) ([]section, error) {
	s := section{
		title:  "Backlog",
		about:  fmt.Sprintf(aboutBacklog, bulkDomains, drainFor),
		tables: []table{{title: "Start of the agent", columns: []string{"", "first delivery", "all read", "memory, MB", "drain rate, messages/s"}}},
	}
	for _, p := range b.backlogs() {
		h, err := pileUp(ctx, p, !b.quick)
		if err != nil {
			return nil, err
		}
		starts := []variant[beginning]{{p.String(), func(ctx context.Context) (beginning, error) { return h.begin(ctx) }}}
		found, err := alternate(ctx, b, "Backlog", starts, beginning.String)
		var rates series
		if err == nil {
			rates, err = h.drained(ctx, b.rounds)
		}
		if err = joinClose(err, h.host); err != nil {
			return nil, err
		}
		s.tables[0].rows = append(s.tables[0].rows, []string{p.String(),
			over(found[0], func(x beginning) float64 { return x.first.Seconds() }).cell(seconds),
			over(found[0], func(x beginning) float64 { return x.read.Seconds() }).cell(seconds),
			over(found[0], func(x beginning) float64 { return x.memory / 1e6 }).cell(count),
			rates.cell(count),
		})
		s.claims = append(s.claims, p.claims(found[0])...)
	}
	return []section{s}, nil
}

// claims holds the starts against what is to be reached with so much mail.
func (p pile) claims(found []beginning) []claim {
	first := over(found, func(x beginning) float64 { return x.first.Seconds() / 5 })
	memory := func(most float64) series {
		return over(found, func(x beginning) float64 { return x.memory / most })
	}
	switch p.n {
	case million:
		return []claim{firstDelivery.claim(first), millionMemory.claim(memory(200e6))}
	case 10 * million:
		read := over(found, func(x beginning) float64 { return x.read.Seconds() / 30 })
		return []claim{tenMillionMemory.claim(memory(1.2e9)),
			{what: p.String() + ": all read / 30 s", reach: "at most 1", got: read, met: atMost(1)}}
	}
	return nil
}

// piled is a host whose agent sleeps on a backlog. Its receivers take a message
// and then hang, so that every round finds the backlog nearly as it was.
type piled struct {
	*host
	cold bool         // each round begins with an empty page cache
	seen atomic.Int64 // messages that arrived
}

func pileUp(ctx context.Context, p pile, cold bool) (h *piled, err error) {
	h = &piled{cold: cold}
	slow := []sink.Provider{{Name: "slow", Domains: []string{"*"}, Hosts: 4, Behaviour: sink.Behaviour{AcceptTime: 200 * time.Millisecond}}}
	h.host, err = start(ctx, world{
		providers: slow, asleep: true, accepted: func(*sink.Message) { h.seen.Add(1) },
		millrace: &lab.MillraceOptions{Set: map[string]string{"handback.relay": `"127.0.0.1:10626"`, "general.max_sessions": "20"}},
	})
	if err != nil {
		return nil, err
	}
	if err := p.write(ctx, h.Millrace.Spool()); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// write makes the backlog: the messages as the milter would, the deferrals as
// an earlier agent would.
func (p pile) write(ctx context.Context, dir string) error {
	w, err := spool.OpenWriter(dir, spool.WriterOptions{})
	if err != nil {
		return err
	}
	content := []byte("Subject: backlog\r\nList-Id: <backlog.example>\r\n\r\n")
	for len(content) < p.size {
		content = append(content, "All work and no play makes this a rather dull newsletter.\r\n"...)
	}
	content = append(content[:p.size-2], "\r\n"...)
	var next atomic.Int64
	workers, _ := errgroup.WithContext(ctx)
	for range 4 * spoolWriters {
		workers.Go(func() error {
			for i := next.Add(1); i <= int64(p.n); i = next.Add(1) {
				e := &spool.Envelope{
					Sender: "bounce@news.sender.test", Stream: "backlog", Arrived: time.Now(), QueueID: fmt.Sprint("B", i),
					Recipients: []spool.Recipient{{Address: fmt.Sprintf("u%d@d%d.example", i, i%bulkDomains)}},
				}
				r, err := w.Append(ctx, e, bytes.NewReader(content))
				if err != nil {
					return err
				}
				if err := r.Release(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := errors.Join(workers.Wait(), w.Close()); err != nil || p.deferred == 0 {
		return err
	}
	return p.postpone(dir)
}

// postpone defers a share of the recipients for some hours.
func (p pile) postpone(dir string) error {
	s, err := spool.OpenStore(dir, spool.StoreOptions{})
	if err != nil {
		return err
	}
	var ids []spool.ID
	err = s.Load(func(id spool.ID, _ *spool.Envelope, _ []spool.State) error {
		ids = append(ids, id)
		return nil
	})
	var events []spool.Event
	for i, id := range ids[:int(float64(len(ids))*p.deferred)] {
		events = append(events, spool.Event{ID: id, State: spool.State{
			Tries: 1, Due: time.Now().Add(4*time.Hour + time.Duration(i%3600)*time.Second),
			Reply: "host mx.example[192.0.2.1] said: 450 4.2.1 mailbox busy (in reply to RCPT TO command)",
		}})
		if len(events) == 1000 && err == nil {
			err = s.Record(events...)
			events = events[:0]
		}
	}
	if err == nil && len(events) > 0 {
		err = s.Record(events...)
	}
	return errors.Join(err, s.Close())
}

// begin starts the agent on a cold cache, and kills it when it has read all.
func (h *piled) begin(ctx context.Context) (s beginning, err error) {
	if h.cold {
		if err := dropCaches(); err != nil {
			return s, err
		}
	}
	defer h.Millrace.Agent.Kill()
	if s, err = h.startUp(ctx); err != nil {
		return s, err
	}
	s.memory, err = peakMemory(h.Millrace.Agent.PID())
	return s, err
}

// startUp starts the agent and returns when it has read all and a message has
// arrived.
func (h *piled) startUp(ctx context.Context) (s beginning, err error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	h.seen.Store(0)
	began := time.Now()
	if err := h.Millrace.Agent.Start(ctx); err != nil {
		return s, err
	}
	err = lab.Until(ctx, func() (bool, error) {
		if s.first == 0 && h.seen.Load() > 0 {
			s.first = time.Since(began)
		}
		if s.read == 0 {
			took, err := h.allRead()
			if err != nil {
				return false, err
			}
			if took {
				s.read = time.Since(began)
			}
		}
		return s.first > 0 && s.read > 0, nil
	})
	if err != nil {
		return s, fmt.Errorf("start on a backlog: %w", err)
	}
	return s, nil
}

// drained starts the agent, lets the receivers take all they are offered, and
// gives the messages a second that arrive, so many times.
func (h *piled) drained(ctx context.Context, times int) (rates series, err error) {
	defer h.Millrace.Agent.Kill()
	if _, err := h.startUp(ctx); err != nil {
		return nil, err
	}
	if err := h.Internet.Change("slow", func(b *sink.Behaviour) { b.AcceptTime = 0 }); err != nil {
		return nil, err
	}
	look := time.NewTicker(drainFor)
	defer look.Stop()
	for range times {
		before, began := h.seen.Load(), time.Now()
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		rates = append(rates, float64(h.seen.Load()-before)/time.Since(began).Seconds())
	}
	return rates, nil
}

// allRead looks for the agent's word that it has read its spool, in the log of
// this run: the latest start comes last.
func (h *piled) allRead() (bool, error) {
	log, err := os.ReadFile(h.Millrace.Agent.Log())
	if err != nil {
		return false, err
	}
	if i := bytes.LastIndex(log, []byte("msg=starting")); i >= 0 {
		log = log[i:]
	}
	return bytes.Contains(log, []byte(`msg="spool read"`)), nil
}

// dropCaches writes back and forgets the page cache.
func dropCaches() error {
	f, err := os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cold cache: %w", err)
	}
	unix.Sync()
	_, err = f.WriteString("3\n")
	return errors.Join(err, f.Close())
}

// peakMemory is the highest resident set of a process so far, in octets.
func peakMemory(pid int) (float64, error) {
	kb, err := kilobytesOf(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
	return 1024 * kb, err
}
