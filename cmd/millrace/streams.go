package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// client connects to the agent of the configuration.
func (g *globals) client() (*control.Client, error) {
	cfg, _, err := g.Load()
	if err != nil {
		return nil, err
	}
	return control.NewClient(cfg.Agent.Control), nil
}

// printJSON writes a list as one JSON object a line.
func printJSON[T any](out io.Writer, list []T) error {
	enc := json.NewEncoder(printable.NewJSON(out))
	for i := range list {
		if err := enc.Encode(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// streamsCmd lists streams.
type streamsCmd struct {
	fleetFlag `embed:""`
	JSON      bool `name:"json" help:"One JSON object a line."`
}

func (c *streamsCmd) Help() string {
	return `Lists the streams (campaigns and lists) that have mail in the queue, or that are
paused or have a priority, and which limit of their [[stream]] they wait for. Counts are
recipients. Then come the limits, and how much of them is used.

Examples:
  millrace streams
  millrace streams --json | jq -r 'select(.held > 0).name'`
}

func (c *streamsCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if c.Fleet {
		return c.ofFleet(ctx, client, out)
	}
	list, err := client.Streams(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(out, list)
	}
	printable.Fprintln(out, streamsHead)
	for i := range list {
		printStream(out, &list[i])
	}
	st, err := client.Status(ctx)
	if err != nil {
		return err
	}
	for i := range st.Limits {
		printable.Fprintf(out, "[[stream]] %s: %s\n", st.Limits[i].Name, st.Limits[i].InWords())
	}
	return nil
}

// ofFleet lists those of all nodes.
func (c *streamsCmd) ofFleet(ctx context.Context, client *control.Client, out io.Writer) error {
	list, missing := fromFleet[control.Stream](ctx, client, control.ViewStreams)
	if missing != nil && !isUnanswered(missing) {
		return missing
	}
	if c.JSON {
		return cmp.Or(printItems(out, list), missing)
	}
	limits, err := fromFleet[control.StreamLimits](ctx, client, control.ViewLimits)
	if err != nil && !isUnanswered(err) {
		return err
	}
	printable.Fprintf(out, nodeColumn+"%s\n", "NODE", streamsHead)
	for i := range list {
		printable.Fprintf(out, nodeColumn, list[i].node)
		printStream(out, &list[i].item)
	}
	for i := range limits {
		printable.Fprintf(out, nodeColumn+"[[stream]] %s: %s\n", limits[i].node, limits[i].item.Name, limits[i].item.InWords())
	}
	return cmp.Or(missing, err)
}

// streamLine is a line of a list of streams, and streamsHead its head.
const (
	streamLine  = "%10v %10v %8v %8v %8v  %s\n"
	streamsHead = "   WAITING   DEFERRED   ACTIVE     HELD PRIORITY  STREAM"
)

func printStream(out io.Writer, s *control.Stream) {
	name := s.Name
	if s.Paused != "" {
		name += "  (paused: " + s.Paused + ")"
	} else if s.Waits != "" {
		name += "  (" + s.Waits
		if !s.Until.IsZero() {
			name += ", until " + s.Until.Local().Format("Mon 15:04")
		}
		name += ")"
	}
	printable.Fprintf(out, streamLine, s.Waiting, s.Deferred, s.Active, s.Held, max(1, s.Priority), name)
}

// priorityCmd gives a stream more than one share.
type priorityCmd struct {
	Stream   string `arg:"" help:"The stream, as millrace streams lists it."`
	Priority int    `arg:"" help:"Its share beside the other streams, 1 to 100; 1 is what each has."`
	hereFlag
}

func (c *priorityCmd) Help() string {
	return `Streams that wait for the same receiver take turns. A stream of priority 4 sends
four times as much in its turn as one of priority 1.

Example:
  millrace priority news.example.com 4`
}

func (c *priorityCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.clientFor(c.Here)
	if err != nil {
		return err
	}
	if err := client.Prioritize(ctx, control.Priority{Stream: c.Stream, Priority: c.Priority}); err != nil {
		return err
	}
	return g.spread(ctx, client, c.Here, "set")
}

// whyCmd explains a site.
type whyCmd struct {
	Site string `arg:"" help:"A site, by its name, a domain, an MX host or an address."`
	JSON bool   `name:"json" help:"One JSON object a line."`
}

func (c *whyCmd) Help() string {
	return `Shows the last changes of how many sessions a site gets and how fast they may send,
each with the receiver's reply or the measurement behind it, oldest first; then how it
stands now: what holds it back, and until when, or which pauses keep how many recipients
of it; its slots (connections that the receiver
may count) and the limit that was found, as a whole and by address; the address that its
mail leaves from, with its pool; then what is paused or limited there by hand.

A limit is of "each address" where all of them are at what they accepted, of "the site"
where together they have less. Both are kept.

With --json "now" is how it stands, in the last line; a line without "at" is no change:
none is remembered. Where there are several sites, as mail leaves from several addresses,
the lines of one follow those of the other, each with its site as "site".

A site is a provider, that is a queue with MX patterns; or else all domains whose best MX
hosts have the same addresses. Its name is that of the queue, or of the domain that the
hosts are in: example.net, or example.net-2 if there is more than one. Of several source
addresses each has a site: example.net:192.0.2.1. Wherever a site is asked for, a domain,
an MX host or an address, with a port or without, will do; the verb is then for the sites
of all source addresses.

Examples:
  millrace why google
  millrace why example.com      the site that mail to this domain goes to`
}

func (c *whyCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	site, err := client.FindSite(ctx, c.Site)
	if err != nil { // an agent of before an upgrade knows it by this name; else its error is Why's
		site = control.SiteFound{Name: c.Site}
	}
	standing, err := client.Standing(ctx)
	if err != nil {
		return err
	}
	if len(site.Several) == 0 {
		return c.explain(ctx, client, site, &standing, "")
	}
	for i, name := range site.Several {
		site, err := client.FindSite(ctx, name)
		if errors.Is(err, control.ErrUnknown) {
			continue // it has ended since
		}
		if i > 0 && !c.JSON {
			printable.Fprintln(os.Stdout)
		}
		if err == nil {
			err = c.explain(ctx, client, site, &standing, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// explain tells of one site, with the orders that stand. Lines of JSON have the name, "" for none: a
// site that is told of alone is not named.
func (c *whyCmd) explain(ctx context.Context, client *control.Client, site control.SiteFound, standing *control.StandingOrders, name string) error {
	list, err := client.Why(ctx, site.Name)
	if err != nil {
		return err
	}
	queue := ""
	var now *control.Account
	if n := len(list); n > 0 && list[n-1].Now != nil {
		now = list[n-1].Now
		queue = now.Queue
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	if !c.JSON {
		printable.Fprintln(out, siteInLine(&site))
	}
	for _, x := range list {
		if c.JSON {
			if err := json.NewEncoder(printable.NewJSON(out)).Encode(struct {
				Site string `json:"site,omitempty"`
				control.Change
			}{name, x}); err != nil {
				return err
			}
			continue
		}
		printable.Fprintln(out, inLine(&x))
	}
	if c.JSON {
		return nil
	}
	if now != nil {
		printAccount(out, now)
		if text := c.source(ctx, client, now.Source); text != "" {
			printable.Fprintf(out, "source     %s\n", text)
		}
	}
	printStanding(out, standing,
		func(b *control.Pause) bool {
			f := b.Filter
			if now != nil && slices.ContainsFunc(now.PausedBy, func(x control.Pause) bool { return x.Filter == f }) {
				return true
			}
			return f.All || f.Site == site.Name || f.Queue != "" && f.Queue == queue || f.Domain != "" && slices.Contains(site.Domains, f.Domain)
		},
		func(l *control.Limit) bool { return l.Name == site.Name || l.Name == queue })
	return nil
}

// source tells of the address that a site's connections favour; "" if the system chooses.
func (c *whyCmd) source(ctx context.Context, client *control.Client, address string) string {
	if address == "" {
		return ""
	}
	st, err := client.Status(ctx)
	if err == nil {
		for i := range st.Sources {
			if s := &st.Sources[i]; s.Address == address {
				return address + " " + s.InWords()
			}
		}
	}
	return address
}

// siteInLine is what is known of a site, with its name.
func siteInLine(s *control.SiteFound) string {
	var list []string
	add := func(what string, names []string) {
		if len(names) > shownOfSite {
			names = append(names[:shownOfSite:shownOfSite], fmt.Sprintf("%d more", len(names)-shownOfSite))
		}
		if len(names) > 0 {
			list = append(list, what+" "+strings.Join(names, ", "))
		}
	}
	add("hosts", s.Hosts)
	add("addresses", s.Addresses)
	add("domains such as", s.Domains)
	if list == nil {
		return s.Name
	}
	return s.Name + ": " + strings.Join(list, "; ")
}

// shownOfSite is how many names of each kind are shown of a site.
const shownOfSite = 6

// inLine is a change of a site's controller as listings show it.
func inLine(c *control.Change) string {
	pace := ""
	if c.At.IsZero() {
		return c.Cause
	}
	if c.Pace > 0 {
		pace = fmt.Sprintf(" at most %.3g/s", c.Pace)
	}
	return fmt.Sprintf("%s  %3d -> %-3d%s  %s", c.At.Local().Format(time.DateTime), c.From, c.To, pace, c.Cause)
}
