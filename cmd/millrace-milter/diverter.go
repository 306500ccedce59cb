package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/fleet/marks"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/milter"
	"github.com/millrace/millrace/milter/inlet"
)

// diverter is the daemon: the spool's writer and the milter server over it.
type diverter struct {
	cfg    *config.Config // as started: sockets and spool do not change with a reload
	log    *slog.Logger
	writer *spool.Writer
	server *milter.Server
	inlet  *inlet.Server // nil: there is none

	bypassed atomic.Pointer[bypassed]
}

// bypassed is what the agent said last of the settings that mail of the inlet passes by.
type bypassed struct {
	what string // "": none that is not accepted
	at   time.Time
}

// bypassedFor is how long the agent's word counts.
const bypassedFor = 5 * time.Minute

// notAccepted is what keeps the inlet from spooling. Only the agent may run postconf, so
// until it has looked, or when it is silent, all mail is passed.
func (d *diverter) notAccepted() string {
	switch b := d.bypassed.Load(); {
	case b == nil:
		return "the agent does not say yet which of the host's settings inlet mail passes by"
	case time.Since(b.at) > bypassedFor:
		return "the agent no longer says which of the host's settings inlet mail passes by"
	default:
		return b.what
	}
}

// heard takes the agent's word. Where it does not know, what it knew before counts no more:
// it has read another configuration since, or observes.
func (d *diverter) heard(answer control.MilterAnswer, now time.Time) {
	if !answer.InletKnown {
		d.bypassed.Store(nil)
		return
	}
	d.bypassed.Store(&bypassed{answer.InletBypassed, now})
}

func newDiverter(c *config.Config, log *slog.Logger) (*diverter, error) {
	w, err := spool.OpenWriter(c.Spool.Directory, spool.WriterOptions{
		Logger: log, MinFree: int64(c.Spool.MinFree), MaxRecipients: c.Spool.MaxRecipients,
	})
	if err != nil {
		return nil, err
	}
	d := &diverter{cfg: c, log: log, writer: w}
	box := feedback.NewBox(c.Spool.Directory)
	if err := box.Clean(); err != nil {
		log.Warn("what a crash left behind among the reports is still there", "err", err)
	}
	key, err := spool.LoopKey(c.Spool.Directory)
	if err == nil {
		d.server, err = milter.New(c, milter.Options{Spool: milter.FromWriter(w), Key: key, Reports: box, Logger: log})
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if c.Inlet.On() {
		d.inlet = inlet.New(c, inlet.Options{Judge: d.server, Key: key, Bypassed: d.notAccepted, Logger: log})
	}
	return d, nil
}

// Reload gives effect to a new configuration; after an error the old one stays.
func (d *diverter) Reload(c *config.Config) error {
	now, then := c.Milter, d.cfg.Milter
	if !slices.Equal(now.Listen, then.Listen) || c.Spool != d.cfg.Spool ||
		now.MaxConnections != then.MaxConnections || now.MaxBodies != then.MaxBodies {
		d.log.Warn("changes of listen, max_connections and max_bodies in [milter], and of [spool], take effect with a restart")
	}
	if x, y := c.Inlet, d.cfg.Inlet; !slices.Equal(x.Listen, y.Listen) || !slices.Equal(x.UIDs, y.UIDs) || x.Anybody != y.Anybody ||
		x.MaxConnections != y.MaxConnections || x.MaxRecipients != y.MaxRecipients || x.MaxMessageSize != y.MaxMessageSize || x.Timeout != y.Timeout {
		d.log.Warn("changes of [inlet], but for pass_to and accept_bypass, take effect with a restart")
	}
	return d.server.Reload(c)
}

// Run serves until ctx is done. It calls ready when the sockets listen, and
// closes the writer last: no session is left that could append.
func (d *diverter) Run(ctx context.Context, ready func()) error {
	err := d.serve(ctx, ready)
	if cerr := d.writer.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing the spool: %w", cerr))
	}
	return err
}

func (d *diverter) serve(ctx context.Context, ready func()) error {
	listeners, err := milter.Listen(d.cfg.Milter.Listen)
	if err != nil {
		return err
	}
	var inlets []net.Listener
	for _, address := range d.cfg.Inlet.Listen {
		ln, err := milter.ListenAt(address, 0o666) // who has connected, the kernel says
		if err != nil {
			// The host's mail does not wait for the inlet.
			d.log.Error("the inlet does not listen", "listen", address, "err", err, "remedy", "choose another address in [inlet] listen, or make its directory writable for the user millrace")
			continue
		}
		inlets = append(inlets, ln)
	}
	ready()
	ctx, stop := context.WithCancel(ctx)
	var aside sync.WaitGroup
	aside.Go(func() { d.tellAgent(ctx) })
	aside.Go(func() { marks.Watch(ctx, d.cfg.Spool.Directory, d.log, d.server.Members) })
	defer aside.Wait()
	defer stop()
	if len(inlets) == 0 {
		return d.server.Serve(ctx, listeners...)
	}
	g, both := errgroup.WithContext(ctx) // not ctx: tellAgent reads that
	g.Go(func() error { return d.inlet.Serve(both, inlets...) })
	g.Go(func() error { return d.server.Serve(both, listeners...) })
	return g.Wait()
}

// tellEvery is how often the agent hears of us.
const tellEvery = time.Second

// tellAgent tells the agent what the host MTA sends itself, and what we have
// counted. While the agent is away nobody needs to know.
func (d *diverter) tellAgent(ctx context.Context) {
	agent := control.NewClient(d.cfg.Agent.Control)
	defer agent.Close()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for { // at once: until the agent has answered, the inlet spools nothing
		c := d.server.Counts()
		report := control.MilterReport{
			HostMail:     d.server.HostMail(),
			MilterCounts: control.MilterCounts{Messages: c.Messages, OneFamily: c.OneFamily, Recipients: c.Recipients, Connections: c.Connections, Reports: c.Reports},
		}
		call, cancel := context.WithTimeout(ctx, tellEvery)
		if d.inlet != nil {
			n := d.inlet.Counts()
			report.Inlet = map[string]uint64{"spooled": n.Spooled, "passed": n.Passed, "refused": n.Refused, "unsure": n.Unsure, "turned_away": n.Turned}
		}
		answer, err := agent.Milter(call, report)
		if err != nil {
			d.log.Debug("the agent was not told of the host's own mail", "err", err)
		} else {
			d.heard(answer, time.Now())
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
