package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// pauseFlags say what a brake is on for.
type pauseFlags struct {
	Stream string `arg:"" optional:"" help:"The stream, as millrace streams lists it."`
	All    bool   `group:"Or, in place of a stream:" help:"All mail."`
	Queue  string `group:"Or, in place of a stream:" placeholder:"NAME" help:"Mail of this queue."`
	Site   string `group:"Or, in place of a stream:" placeholder:"NAME" help:"Mail to this site: its name, a domain, an MX host or an address."`
	Domain string `group:"Or, in place of a stream:" placeholder:"NAME" help:"Mail to recipients in this domain."`
	Sender string `group:"Or, in place of a stream:" placeholder:"ADDRESS" help:"Mail of this envelope sender."`
	User   string `group:"Or, in place of a stream:" placeholder:"NAME" help:"Mail that this SASL user submitted."`
	Client string `group:"Or, in place of a stream:" placeholder:"ADDRESS" help:"Mail that this SMTP client submitted."`
	hereFlag
}

func (f *pauseFlags) filter() (control.Filter, error) {
	x := control.Filter{All: f.All, Stream: f.Stream, Queue: f.Queue, Site: f.Site, Domain: f.Domain, Sender: f.Sender, User: f.User, Client: f.Client}
	switch {
	case x.Empty():
		return x, program.Usage("say which mail: a stream, --queue, --site, --user ... or --all")
	case f.All && x != control.Filter{All: true}:
		return x, program.Usage("--all is all mail: leave it out, or else what it stands beside")
	}
	return x, nil
}

// pauseCmd puts a pause in force.
type pauseCmd struct {
	pauseFlags
	Reason string `help:"Why, for listings and logs."`
	For    age    `placeholder:"TIME" help:"Let it go on by itself after this time: 30m, 2h, 1d."`
}

func (c *pauseCmd) Help() string {
	return `Nothing more of it is sent until millrace resume, over restarts too. Transactions under
way finish; new mail is taken into the spool and waits; nothing expires. What is on its
way home to the host goes on, unless --queue handback is said. A domain after --site
stands for the whole site, which other domains may share: the command says how many are
known. A receiver has a site for each source address: --site is for all of them, known or
not yet, unless it is the name of one, "example.net:192.0.2.1".

A queue, a site, a stream and a domain may be combined, and a sender, a SASL user and
a client. millrace brakes lists what is paused.

In a fleet it is paused on all nodes, and what another node pauses is paused here; the
command says which nodes have confirmed it. --here pauses on this node alone. What a node
paused before it joined the fleet is its own.

Examples:
  millrace pause "Spring sale <sale.example.com>" --reason "wrong price in it"
  millrace pause --all
  millrace pause --user hacked@example.com
  millrace pause --site google --for 2h`
}

func (c *pauseCmd) Run(ctx context.Context, g *globals) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	client, err := g.clientFor(c.Here)
	if err != nil {
		return err
	}
	b := control.Pause{Filter: f, Reason: c.Reason}
	if c.For > 0 {
		b.Until = time.Now().Add(time.Duration(c.For))
	}
	found := siteFor(ctx, client, f.Site)
	if err := client.Pause(ctx, b); err != nil {
		return err
	}
	tellSites(&found, f.Site)
	if found.Others > 0 {
		printable.Fprintf(os.Stdout, "the whole site is paused, for %s too; millrace pause --domain %s is for that one alone\n", count(found.Others, "other domain"), f.Site)
	}
	return g.spread(ctx, client, c.Here, "paused")
}

// siteFor asks what a text means as a site. It is to tell of an order alone, so that no answer, as
// of a queue's name, is none.
func siteFor(ctx context.Context, client *control.Client, text string) control.SiteFound {
	if text == "" {
		return control.SiteFound{}
	}
	found, err := client.FindSite(ctx, text)
	if err != nil {
		return control.SiteFound{}
	}
	return found
}

// namesOf are the sites that were found.
func namesOf(s *control.SiteFound) []string {
	if s.Name != "" {
		return []string{s.Name}
	}
	return s.Several
}

// tellSites names the sites that an order was for, by what was given, unless that was the name of
// the only one.
func tellSites(s *control.SiteFound, given string) {
	switch {
	case len(s.Several) > 0:
		printable.Fprintln(os.Stdout, "for all source addresses: "+strings.Join(s.Several, ", "))
	case s.Source != "" && s.Name != given && strings.HasSuffix(s.Name, ":"+s.Source):
		printable.Fprintln(os.Stdout, "for all source addresses: "+s.Name+" so far")
	case s.Name != "" && s.Name != given:
		printable.Fprintln(os.Stdout, "for site "+s.Name)
	}
}

// resumeCmd ends a pause.
type resumeCmd struct{ pauseFlags }

func (c *resumeCmd) Help() string {
	return `Takes off the brake that millrace pause has put on with the same conditions, and says
which are left. millrace resume --all ends pause --all, not every pause.

With --site it also lifts what reply rules have done to the site. A rule may do so again
when the receiver says the same once more.

In a fleet it ends on all nodes what this node knows of; a pause that another node has
made at the same time stays, and is listed here once it is known. What reply rules have
done to sites is lifted on this node alone.

Examples:
  millrace resume "Spring sale <sale.example.com>"
  millrace resume --queue google news.example.com
  millrace resume --site google`
}

func (c *resumeCmd) Run(ctx context.Context, g *globals) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	client, err := g.clientFor(c.Here)
	if err != nil {
		return err
	}
	before, err := client.Standing(ctx)
	if err != nil {
		return err
	}
	found := siteFor(ctx, client, f.Site)
	left, err := client.Resume(ctx, f)
	if err != nil {
		return err
	}
	tellSites(&found, f.Site)
	if f == (control.Filter{Site: f.Site}) {
		names := namesOf(&found)
		for i := range before.Effects {
			if e := &before.Effects[i]; e.Site == f.Site || slices.Contains(names, e.Site) {
				printable.Fprintln(os.Stdout, fmt.Sprintf("lifted: site %s %s; the rule may do so again when the receiver says the same", e.Site, e.Does()))
			}
		}
	}
	for _, b := range left {
		printable.Fprintln(os.Stdout, "still paused: "+b.InWords())
	}
	return g.spread(ctx, client, c.Here, "resumed")
}

// brakesCmd lists what is in force.
type brakesCmd struct {
	fleetFlag `embed:""`
	JSON      bool `name:"json" help:"As one JSON object; with --fleet, one for each node."`
}

func (c *brakesCmd) Help() string {
	return `Lists what is paused, why, since when and by whom, the temporary limits, and what reply
rules do to sites. millrace resume ends each; of a rule, with --site; of the breaker, with
--queue and the stream, which it then leaves alone there for seven days.

Example:
  millrace brakes`
}

func (c *brakesCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if c.Fleet {
		return c.ofFleet(ctx, client)
	}
	s, err := client.Standing(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(printable.NewJSON(os.Stdout)).Encode(s)
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if len(s.Pauses)+len(s.Limits)+len(s.Effects) == 0 {
		printable.Fprintln(out, "Nothing is paused or limited")
	}
	printBrakes(out, &s)
	return nil
}

func printBrakes(out io.Writer, s *control.StandingOrders) {
	for i := range s.Effects {
		printable.Fprintln(out, "by rule: "+s.Effects[i].InWords())
	}
	printStanding(out, s, func(*control.Pause) bool { return true }, func(*control.Limit) bool { return true })
	for _, r := range s.Released {
		printable.Fprintf(out, "resumed: %s, which the breaker leaves alone until %s\n", r.Filter, r.Until.Local().Format(time.DateTime))
	}
}

// ofFleet lists what is in force at each node.
func (c *brakesCmd) ofFleet(ctx context.Context, client *control.Client) error {
	list, missing := fromFleet[control.StandingOrders](ctx, client, control.ViewStanding)
	if missing != nil && !isUnanswered(missing) {
		return missing
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.JSON {
		return cmp.Or(printItems(out, list), missing)
	}
	any := false
	for i := range list {
		var b strings.Builder
		printBrakes(&b, &list[i].item)
		for line := range strings.Lines(b.String()) {
			any = true
			printable.Fprintf(out, nodeColumn+"%s\n", list[i].node, strings.TrimSuffix(line, "\n"))
		}
	}
	if !any {
		printable.Fprintln(out, "Nothing is paused or limited")
	}
	return missing
}

func printStanding(out io.Writer, s *control.StandingOrders, pause func(*control.Pause) bool, limit func(*control.Limit) bool) {
	for i := range s.Pauses {
		if pause(&s.Pauses[i]) {
			printable.Fprintln(out, "paused: "+s.Pauses[i].InWords())
		}
	}
	for i := range s.Limits {
		if limit(&s.Limits[i]) {
			printable.Fprintln(out, "limited: "+s.Limits[i].InWords())
		}
	}
}

// setCmd limits a site or a queue for a time.
type setCmd struct {
	Name     string    `arg:"" optional:"" help:"A queue: each of its sites; or a site, by its name, a domain, an MX host or an address."`
	Sessions sessions  `placeholder:"N" help:"At most so many sessions at a time, in place of max_sessions."`
	Rate     perSecond `placeholder:"RATE" help:"At most so many messages, in place of max_message_rate: 10/s, 600/m, 5000/h."`
	For      *age      `placeholder:"TIME" help:"How long: 30m, 2h, 1d. Default: 1h."`
	Reset    bool      `help:"End the limits that were set."`
	Forget   bool      `help:"Drop what was learned of its receivers: limits, pace, penalties, suspensions."`
	All      bool      `help:"With --forget: of all sites."`
	hereFlag
}

// perSecond is a rate in the notation of the configuration.
type perSecond float64

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *perSecond) UnmarshalText(b []byte) error {
	x, err := config.ParseRate(string(b))
	*r = perSecond(x)
	return err
}

// sessions is a number of sessions that may be asked for. None at all is a pause.
type sessions int

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *sessions) UnmarshalText(b []byte) error {
	x, err := strconv.ParseUint(string(b), 10, 31)
	if err != nil || x == 0 {
		return fmt.Errorf("%q is not a number of sessions from 1 on; remedy: millrace pause is for none at all", b)
	}
	*n = sessions(x)
	return nil
}

func (c *setCmd) Help() string {
	return `Sets limits in place of the configured ones for a time, lower or higher. They are kept
over a restart and shown by millrace brakes and why.

What the agent learns of a receiver by itself outlives a restart, too. Where a limit was
lifted or a suspension is void, --forget has it find out anew.

Examples:
  millrace set google --sessions 5 --rate 10/s --for 2h
  millrace set mx1.example.net --sessions 2
  millrace set google --reset
  millrace set example.net --forget
  millrace set --forget --all`
}

func (c *setCmd) Run(ctx context.Context, g *globals) error {
	limits, lasts := c.Sessions > 0 || c.Rate > 0, age(time.Hour)
	if c.For != nil {
		lasts = *c.For
	}
	switch {
	case c.All != (c.Name == ""), c.All && !c.Forget:
		return program.Usage("name a site or a queue, or say --forget --all")
	case c.Forget && (limits || c.Reset):
		return program.Usage("--forget has no limit to set or to end: leave out --sessions, --rate and --reset, or run it twice")
	case c.Reset && limits:
		return program.Usage("--reset ends the limits of a site or queue: leave out --sessions and --rate, or else --reset")
	case c.For != nil && (c.Forget || c.Reset):
		return program.Usage("--for is how long --sessions and --rate hold: leave it out with --forget and --reset")
	case !c.Forget && !c.Reset && !limits:
		return program.Usage("say --sessions, --rate or both, or else --reset or --forget")
	}
	client, err := g.clientFor(c.Here)
	if err != nil {
		return err
	}
	found := siteFor(ctx, client, c.Name)
	if c.Forget {
		n, err := client.Forget(ctx, c.Name)
		if err == nil {
			tellSites(&found, c.Name)
			printable.Fprintf(os.Stdout, "What was learned of %s is forgotten\n", count(n, "site"))
			if n == 0 {
				printable.Fprintln(os.Stdout, "Nothing is known of a receiver of that queue, unless an earlier version has learned it: --forget --all drops what is remembered of all receivers")
			}
		}
		return err
	}
	err = client.Limit(ctx, control.Limit{
		Name: c.Name, Sessions: int(c.Sessions), Rate: float64(c.Rate), Until: time.Now().Add(time.Duration(lasts)),
	})
	if err != nil {
		return err
	}
	tellSites(&found, c.Name)
	return g.spread(ctx, client, c.Here, "set")
}

// reloadCmd has the agent read its configuration.
type reloadCmd struct{}

func (c *reloadCmd) Help() string {
	return `Has millrace-agent read its configuration anew, and says what is wrong with it; then the
old one stays in force. millrace-milter has no socket for this: send it SIGHUP.

Example:
  millrace check && millrace reload && systemctl reload millrace-milter`
}

func (c *reloadCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	return client.Reload(ctx)
}
