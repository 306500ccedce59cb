package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/postconf"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/cmd/internal/program"
)

// setupCmd makes the host's MTA ask Millrace.
type setupCmd struct {
	Divert        bool   `help:"Divert from now on. Refused while a setting of Postfix that diverted mail would pass by is not accepted."`
	Command       bool   `name:"sendmail-command" help:"Filter the mail of sendmail(1) too, not only what comes by SMTP."`
	PostfixConfig string `placeholder:"DIR" help:"Postfix's configuration directory, of one of several instances. Default: the one that Postfix uses."`
	DryRun        bool   `short:"n" help:"Show what would be done, and do nothing."`
	Yes           bool   `help:"Do not ask."`
	Undo          bool   `help:"Take out again what was set up; queued mail stays in the spool. millrace retreat does both."`
	Sendmail      bool   `help:"The host's MTA is Sendmail: show the lines for sendmail.mc, and whether the running configuration has them."`
	Inlet         bool   `help:"Show what to set in list software, Exim and OpenSMTPD, so that their bulk mail comes to the inlet."`
	NoTest        bool   `help:"Send no test message."`
}

func (c *setupCmd) Help() string {
	return `Makes the running Postfix ask Millrace, in mode "observe": Millrace decides, logs
and counts, and Postfix delivers as ever. Shows each change as a diff, asks, keeps a
copy of main.cf and master.cf beside them (*.before-millrace), asks postfix check,
and reloads. If Postfix then has stopped, or the hand-back service does not greet, all
is taken back. What it does not understand it leaves, and says what to write there.

  main.cf     Millrace as the last milter
  master.cf   the same where a service has milters of its own, but for ports where
              a content filter gives mail back; a socket where bounces and returned
              mail come back, which no milter sees
  conf.d/host.toml   what holds for Postfix's own sending, and so for Millrace's:
              names, addresses, TLS, its domains, slow transports

Run again it changes only what is not as it should be. When millrace report has
convinced you, --divert lets Millrace take the bulk mail.

Examples:
  millrace setup --dry-run
  millrace setup
  millrace setup --divert
  millrace setup --postfix-config /etc/postfix-bulk
  millrace setup --inlet`
}

func (c *setupCmd) Run(ctx context.Context, g *globals) error {
	if c.Sendmail {
		return c.sendmail(g)
	}
	if c.Inlet {
		return c.inlet(g, os.DirFS("/"), os.Stdout)
	}
	if c.Undo {
		return c.undo(ctx, g)
	}
	release, err := c.alone(g.Config)
	if err != nil {
		return err
	}
	defer release()
	files, err := stageConfig(g.Config)
	if err != nil {
		return err
	}
	defer files.close()
	cfg, err := files.load()
	if err != nil {
		return err
	}
	// The host's habits, next to what the admin has said.
	host, err := postconf.Read(ctx, c.PostfixConfig)
	if err != nil {
		return err
	}
	facts, err := c.facts(ctx, files, cfg, host)
	if err != nil {
		return err
	}
	if err := files.writeHost(facts); err != nil {
		return err
	}
	if c.Divert {
		if err := files.divert(); err != nil {
			return err
		}
	}
	if cfg, err = files.load(); err != nil {
		return fmt.Errorf("setup would write what the configuration refuses; nothing was changed; remedy: set that key in %s yourself, and it is left out:\n%s", g.Config, facts.text)
	}
	if c.Command && len(cfg.Milter.HostDomains) == 0 {
		return fmt.Errorf("--sendmail-command: Postfix does not say of such mail which recipients are its own, and [milter] host_domains is empty; remedy: list the domains that this host delivers or relays")
	}
	plan, err := postconf.Setup(ctx, cfg, postconf.SetupOptions{Dir: c.PostfixConfig, Command: c.Command})
	if err != nil {
		return err
	}
	changes, err := files.changes()
	if err != nil {
		return err
	}
	if err := c.reached(ctx, cfg); err != nil {
		return err
	}
	r := printer{out: os.Stderr}
	if facts.port != "" {
		r.say("note: " + facts.port)
	}
	for _, n := range plan.Reasons {
		r.say(n)
	}
	for _, n := range append(facts.Notes, plan.ByHand...) {
		r.say("by hand: " + n)
	}
	if err := c.mayGo(r, cfg, plan); err != nil {
		return err
	}
	if note := postconf.Generated(plan.Dir); note != "" {
		r.say("note: " + note)
	}
	done, err := c.apply(ctx, os.Stdout, changes, plan, g.Config, cfg)
	if err != nil || !done {
		return err
	}
	if !c.NoTest {
		testMessage(ctx, os.Stdout, cfg.Hostname)
	}
	return afterSetup(os.Stdout, cfg)
}

// hostFacts are what setup writes about the host.
type hostFacts struct {
	*postconf.Export
	dir   string // of the instance
	relay string // [handback] relay; "" is the default
	port  string // why mail comes back at a port; "" is at a socket, or as the admin has set it
	text  string // of hostFile
}

// facts gathers them. One Millrace serves one instance: two have names, addresses and
// domains of their own, and mail that is handed back must return to where it came from.
func (c *setupCmd) facts(ctx context.Context, files *configFiles, cfg *config.Config, host *postconf.Postfix) (*hostFacts, error) {
	dir := c.PostfixConfig
	if dir == "" {
		var err error
		if dir, err = postconf.DefaultDir(ctx); err != nil {
			return nil, err
		}
	}
	others, err := otherInstances(ctx, dir, files.main)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		if o.NamesListen(cfg) {
			return nil, fmt.Errorf("this Millrace serves the Postfix of %s already; nothing was changed; remedy: millrace setup --undo --postfix-config %s first, or give a second Millrace a configuration of its own (millrace --config FILE)", o.Dir(), o.Dir())
		}
	}
	defined, err := files.defined()
	if err != nil {
		return nil, err
	}
	relay, port, err := host.Relay(cfg, postconf.RelayOptions{Fixed: defined("handback", "relay"), Others: others})
	if err != nil {
		return nil, err
	}
	if relay == cfg.Handback.Relay {
		relay = ""
	}
	return &hostFacts{Export: host.Export(cfg), dir: dir, relay: relay, port: port}, nil
}

// mayGo says what speaks against the result, and refuses it where millrace check would
// not be content with it.
func (c *setupCmd) mayGo(r printer, cfg *config.Config, plan *postconf.Plan) error {
	diverting := *cfg
	diverting.Milter.Mode = config.Divert
	wrong := 0
	for _, f := range plan.After.Check(&diverting) {
		switch {
		case f.Severity != postconf.Contradiction:
		case cfg.Milter.Mode == config.Divert:
			r.fail(f.String())
			wrong++
		default:
			r.say("before you divert: " + f.String())
		}
	}
	if wrong == 0 {
		return nil
	}
	return program.Error{Code: program.ExitFailure, Err: errors.New(count(wrong, "error") + " in what millrace check would find then; nothing was changed")}
}

// afterSetup says what of an earlier time keeps Millrace from diverting, or has it divert.
func afterSetup(out io.Writer, cfg *config.Config) error {
	since, draining, err := spool.Draining(cfg.Spool.Directory)
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case draining:
		printable.Fprintf(out, "a drain is on since %s, so nothing is diverted: millrace drain --end\n", since.Local().Format(time.DateTime))
	case cfg.Milter.Mode == config.Divert:
		printable.Fprintln(out, `[milter] mode is "divert": bulk mail is diverted from now on`)
	}
	return nil
}

// reached refuses a set-up after which nothing could come back: an agent that is not let
// in at the hand-back socket keeps its bounces.
func (c *setupCmd) reached(ctx context.Context, cfg *config.Config) error {
	closed := *cfg
	closed.Milter.Mode = config.Divert // what is a contradiction then is one in time
	found, err := postconf.Reach(ctx, &closed)
	if err != nil && !errors.Is(err, postconf.ErrNotAsked) {
		return err
	}
	for _, f := range found {
		if f.Severity == postconf.Contradiction {
			if c.DryRun {
				(&printer{out: os.Stderr}).say("by hand, before: " + f.String())
				continue
			}
			return fmt.Errorf("%s; nothing was changed", f)
		}
	}
	return nil
}

// alone refuses to work beside another setup or retreat of the same configuration: each
// of them keeps and removes the copies of what it changes. The lock is flock(2) on the
// directory, so it ends with the process, however that ends.
func (c *setupCmd) alone(main string) (release func() error, err error) {
	if c.DryRun {
		return func() error { return nil }, nil
	}
	dir, err := os.Open(filepath.Dir(main))
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = errors.Join(err, dir.Close())
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.New("another millrace setup or retreat is at work; nothing was changed; remedy: wait for its end, and run this one again")
		}
		return nil, fmt.Errorf("flock %s: %w", dir.Name(), err)
	}
	return dir.Close, nil
}

// undo takes out what was set up.
func (c *setupCmd) undo(ctx context.Context, g *globals) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	release, err := c.alone(g.Config)
	if err != nil {
		return err
	}
	defer release()
	plan, err := postconf.Undo(ctx, cfg, postconf.SetupOptions{Dir: c.PostfixConfig})
	if err != nil {
		return err
	}
	files, err := stageConfig(g.Config)
	if err != nil {
		return err
	}
	defer files.close()
	changes, err := files.changes() // without host.toml
	if err != nil {
		return err
	}
	r := printer{out: os.Stderr}
	for _, n := range plan.ByHand {
		r.say("by hand: " + n)
	}
	// After retreat nothing is queued that could go there.
	if after, err := files.load(); err == nil && c.Undo && config.RelaySocket(cfg.Handback.Relay) != "" {
		if wrong := postconf.Exposed(after.Handback.Relay, os.DirFS("/")); wrong != "" {
			r.say("afterwards Postfix has no place where mail comes back: " + wrong + "; stop millrace-agent, or use millrace retreat, if mail is queued")
		}
	}
	_, err = c.apply(ctx, os.Stdout, changes, plan, g.Config, cfg)
	return err
}

// apply shows the changes, asks, and makes them: ours first, so that Postfix
// never asks a Millrace that does not know the host yet. It reports whether it came
// to the end.
func (c *setupCmd) apply(ctx context.Context, out io.Writer, ours []postconf.Change, plan *postconf.Plan, like string, cfg *config.Config) (bool, error) {
	if len(ours)+len(plan.Changes) == 0 {
		printable.Fprintln(out, "nothing is to be changed")
		return true, nil
	}
	for _, change := range append(ours[:len(ours):len(ours)], plan.Changes...) {
		text, err := change.Diff(ctx)
		if err != nil {
			return false, err
		}
		printable.Fprintf(out, "%s", printable.Block(text))
	}
	if c.DryRun {
		return false, nil
	}
	if os.Geteuid() != 0 {
		return false, errors.New("only root can change this; --dry-run shows it")
	}
	if !c.Yes {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return false, errors.New("say --yes where nobody can be asked")
		}
		if !confirm(os.Stdin, out, "Make these changes, and reload Postfix?") {
			return false, errors.New("nothing was changed")
		}
	}
	for i := range ours {
		if err := ours[i].Apply(like); err != nil {
			return false, errors.Join(err, postconf.PutBack(ours[:i]))
		}
	}
	if err := plan.Apply(ctx, cfg); err != nil {
		return false, errors.Join(err, postconf.PutBack(ours))
	}
	if len(ours) > 0 {
		if err := reloadDaemons(ctx, out); err != nil {
			return true, err
		}
	}
	printable.Fprintln(out, "done")
	return true, nil
}

// reloadDaemons has the daemons read their configuration.
func reloadDaemons(ctx context.Context, out io.Writer) error {
	const units = "millrace-milter.service millrace-agent.service"
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		printable.Fprintln(out, "send SIGHUP to millrace-milter and millrace-agent: their configuration has changed")
		return nil
	}
	cmd := exec.CommandContext(ctx, "systemctl", append([]string{"reload-or-restart"}, strings.Fields(units)...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("all is set up, but the daemons go on with their old configuration: systemctl reload-or-restart %s: %w: %s", units, err, strings.TrimSpace(string(text)))
	}
	return nil
}
