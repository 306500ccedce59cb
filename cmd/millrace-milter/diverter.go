package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/milter"
)

// diverter is the daemon: the spool's writer and the milter server over it.
type diverter struct {
	cfg    *config.Config // as started: sockets and spool do not change with a reload
	log    *slog.Logger
	writer *spool.Writer
	server *milter.Server
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
	return d, nil
}

// Reload gives effect to a new configuration; after an error the old one stays.
func (d *diverter) Reload(c *config.Config) error {
	now, then := c.Milter, d.cfg.Milter
	if !slices.Equal(now.Listen, then.Listen) || c.Spool != d.cfg.Spool ||
		now.MaxConnections != then.MaxConnections || now.MaxBodies != then.MaxBodies {
		d.log.Warn("changes of listen, max_connections and max_bodies in [milter], and of [spool], take effect with a restart")
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
	ready()
	ctx, stop := context.WithCancel(ctx)
	var aside sync.WaitGroup
	aside.Go(func() { d.tellAgent(ctx) })
	defer aside.Wait()
	defer stop()
	return d.server.Serve(ctx, listeners...)
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c := d.server.Counts()
		report := control.MilterReport{
			HostMail:     d.server.HostMail(),
			MilterCounts: control.MilterCounts{Messages: c.Messages, OneFamily: c.OneFamily, Recipients: c.Recipients, Connections: c.Connections, Reports: c.Reports},
		}
		call, cancel := context.WithTimeout(ctx, tellEvery)
		if err := agent.Milter(call, report); err != nil {
			d.log.Debug("the agent was not told of the host's own mail", "err", err)
		}
		cancel()
	}
}
