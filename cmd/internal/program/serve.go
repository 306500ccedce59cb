package program

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// Daemon is a program that runs until it is told to stop.
type Daemon interface {
	// Run works until ctx ends and then stops in order. It calls ready once, when it serves.
	Run(ctx context.Context, ready func()) error
	// Reload gives effect to a new configuration; after an error the old one stays.
	Reload(*config.Config) error
}

// Prober is a Daemon that can tell whether its work goes on.
type Prober interface {
	// Probe returns nil if it does, or what stands still; it returns when ctx ends at the latest.
	Probe(ctx context.Context) error
}

// Serve is the main function of a daemon: flags, configuration, log, signals.
// It does not return. A configuration that cannot be used ends it with
// ExitConfig before start is called, so that no half of a daemon ever runs.
// SIGHUP reloads, SIGTERM and SIGINT stop. reload does what SIGHUP does, for a daemon
// that can be asked in another way too; its error says what is wrong.
func Serve(name, description string, start func(c *config.Config, log *slog.Logger, reload func() error) (Daemon, error)) {
	var flags Flags
	Parse(name, description, &flags)
	c, notices, err := flags.Load()
	if err != nil {
		Exit(name, err)
	}
	log, err := flags.open(name, c.Log, os.Stderr)
	if err != nil {
		Exit(name, Error{Code: ExitConfig, Err: err})
	}
	tell(log.Logger, c, notices)
	systemd := newManager(log.Logger, os.Getenv("NOTIFY_SOCKET"))
	var d Daemon
	var reloading sync.Mutex
	reload := func() error {
		reloading.Lock()
		defer reloading.Unlock()
		systemd.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic()))
		defer systemd.tell("READY=1")
		return load(flags, d, log)
	}
	if d, err = start(c, log.Logger, reload); err != nil {
		Exit(name, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)

	var aside sync.WaitGroup
	probe := func(context.Context) error { return nil }
	if p, ok := d.(Prober); ok {
		probe = p.Probe
	}
	aside.Go(func() { watchdog(ctx, systemd, watchdogInterval(os.Getenv("WATCHDOG_USEC")), probe) })
	aside.Go(func() {
		for {
			select {
			case <-ctx.Done():
				systemd.tell("STOPPING=1")
				return
			case <-hangup:
				_ = reload() // it is in the log
			}
		}
	})
	log.Info("starting", "version", Version(), "config", flags.Config)
	err = d.Run(ctx, func() {
		systemd.tell("READY=1")
		log.Info("ready")
	})
	stop()
	aside.Wait()
	if err == nil {
		log.Info("stopped")
	}
	Exit(name, err)
}

// load reads the configuration and puts it into force.
func load(flags Flags, d Daemon, log *daemonLog) error {
	c, notices, err := flags.Load()
	if err == nil {
		tell(log.Logger, c, notices)
		err = d.Reload(c)
	}
	if err == nil {
		log.reload(c.Log)
	}
	if err != nil {
		log.Error("reload failed; the old configuration stays in force", "err", err)
		return err
	}
	log.Info("configuration reloaded", "config", flags.Config)
	return nil
}

// tell logs what is to be said of a configuration that can be used.
func tell(log *slog.Logger, c *config.Config, notices []config.Notice) {
	for _, n := range c.Refused {
		log.Error("configuration: " + n.String())
	}
	for _, n := range notices {
		log.Warn("configuration: " + n.String())
	}
}

// watchdog tells systemd that we live, as long as the work goes on: twice in each
// WATCHDOG_USEC, or, when something stands still, as soon as it does not. It says nothing
// if every is 0.
func watchdog(ctx context.Context, systemd *manager, every time.Duration, probe func(context.Context) error) {
	if every == 0 {
		return
	}
	next := time.NewTimer(every)
	defer next.Stop()
	var wrong error
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		limit, cancel := context.WithTimeout(ctx, every/4)
		err := probe(limit)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			if wrong == nil {
				systemd.log.Error("the work stands still; systemd will restart this service if that lasts", "err", err)
			}
			next.Reset(every / 8)
		} else {
			if wrong != nil {
				systemd.log.Info("the work goes on")
			}
			systemd.tell("WATCHDOG=1")
			next.Reset(every)
		}
		wrong = err
	}
}
