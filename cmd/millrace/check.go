package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/millrace/millrace/agent/assess"
	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/fleet"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/cmd/internal/program"
)

// checkCmd says whether the configuration can be used, and whether the host's
// Postfix fits it.
type checkCmd struct {
	PostfixConfig string `placeholder:"DIR" help:"Postfix's configuration directory, as postconf -c takes it. Default: the one that Postfix uses."`
	DNS           bool   `name:"dns" default:"true" negatable:"" help:"Ask whether the addresses that mail leaves from have names that resolve back to them, and whether SPF records of senders have those of pools."`
}

func (c *checkCmd) Help() string {
	return `Reads the configuration as the daemons do, and asks postconf(1) whether Postfix
fits it: Millrace's place among the milters, where mail comes back, settings that
diverted mail does not pass, and what Millrace must match when it sends.
Changes nothing. On a host without Postfix only the configuration is checked.

A setting that acts after the milter is an error in mode "divert", until
[milter] accept_bypass names it. Lookup tables that can be read as text are
looked into, and are no error if they cannot concern diverted mail.

Exit code: 0, with warnings too; 1 if Postfix contradicts the configuration, or that
asks for what is refused (the daemons run, with something safe in its place); 78 if
the configuration cannot be used.

Examples:
  millrace check
  millrace --config /root/new/millrace.toml check    before it is put in place`
}

// Run writes what it finds to standard error, as "postfix check" does.
func (c *checkCmd) Run(ctx context.Context, g *globals) error {
	r := printer{out: os.Stderr}
	cfg, notices, err := g.Load()
	if err != nil {
		return r.refuse(err)
	}
	for _, n := range cfg.Refused {
		r.fail(n.String())
	}
	r.refused = len(cfg.Refused)
	for _, n := range notices {
		r.warn(n.String())
	}
	since, on, err := spool.Draining(cfg.Spool.Directory)
	if on {
		r.warn(fmt.Sprintf("spool %s is being drained since %s: nothing is diverted; remedy: millrace drain --end, if that is over",
			cfg.Spool.Directory, since.Local().Format(time.DateTime)))
	} else if err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if w := inletWarning(os.DirFS("/"), &cfg.Inlet, on); w != "" {
		r.warn(w)
	}
	// Who may not read the state directory hears of nothing there.
	if record, err := assess.ReadRecord(cfg.Agent.StateDirectory); err == nil {
		if s := record.Silence(); s != "" {
			r.warn(s)
		}
	}
	host, err := postconf.Read(ctx, c.PostfixConfig)
	switch {
	case err == nil:
		for _, f := range host.Check(cfg) {
			r.add(f)
		}
	case errors.Is(err, postconf.ErrNone) && c.PostfixConfig == "":
		r.say(err.Error() + ": only the configuration was checked")
		for _, f := range postconf.Elsewhere(cfg) {
			r.add(f)
		}
	default:
		return err
	}
	found, err := postconf.Reach(ctx, cfg)
	for _, f := range found {
		r.add(f)
	}
	if errors.Is(err, postconf.ErrNotAsked) {
		r.say(err.Error())
	} else if err != nil {
		return err
	}
	if found, err = postconf.Keeps(ctx, cfg); err != nil {
		return err
	}
	for _, f := range found {
		r.add(f)
	}
	for _, offer := range []string{cfg.Outcomes.Offer(), cfg.Feedback.Offer(), cfg.Breaker.Offer()} {
		if offer != "" {
			r.say(offer)
		}
	}
	for _, w := range absent(cfg, isHere) {
		r.warn(w)
	}
	for _, w := range fleet.Check(ctx, &cfg.Fleet) {
		r.warn(w)
	}
	if c.DNS {
		for _, w := range identity(ctx, cfg, resolver(cfg)) {
			r.warn(w)
		}
		for _, w := range uncovered(ctx, cfg, seen(cfg), resolver(cfg)) {
			r.warn(w)
		}
	}
	return r.end()
}

// printer writes findings line by line, and counts them.
type printer struct {
	out              io.Writer
	errors, warnings int
	refused          int // of the errors: what the configuration asks for and does not get
}

func (r *printer) say(text string) { printable.Fprintf(r.out, "millrace: %s\n", text) }

func (r *printer) warn(text string) {
	r.warnings++
	r.say("warning: " + text)
}

func (r *printer) fail(text string) {
	r.errors++
	r.say("error: " + text)
}

func (r *printer) add(f postconf.Finding) {
	switch f.Severity {
	case postconf.Contradiction:
		r.fail(f.String())
	case postconf.Warning:
		r.warn(f.String())
	case postconf.Accepted:
		r.say(f.String())
	}
}

// refuse reports a configuration that cannot be used. The error that it returns
// ends the program, and is its last line.
func (r *printer) refuse(err error) error {
	var list config.Errors
	if !errors.As(err, &list) {
		return err
	}
	for _, n := range list {
		r.fail(n.String())
	}
	return program.Error{Code: program.ExitConfig, Err: errors.New(r.counts() + ": the configuration cannot be used")}
}

// end writes the last line, or returns it as the error that ends the program.
func (r *printer) end() error {
	if r.errors > 0 {
		what := "Postfix contradicts the configuration"
		if r.refused == r.errors {
			what = "the configuration asks for what is refused"
		}
		return program.Error{Code: program.ExitFailure, Err: errors.New(r.counts() + ": " + what)}
	}
	r.say(r.counts())
	return nil
}

func (r *printer) counts() string {
	return count(r.errors, "error") + ", " + count(r.warnings, "warning")
}

func count(n int, what string) string { return printable.Count(n, what) }

func thousands(n int) string { return printable.Thousands(n) }
