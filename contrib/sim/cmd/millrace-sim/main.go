// Command millrace-sim drives the agent's controller against simulated
// receivers and prints how well it does:
//
//	go run ./contrib/sim/cmd/millrace-sim                           # all kinds, five seeds each
//	go run ./contrib/sim/cmd/millrace-sim --plots /tmp/plots bans   # some of them, with pictures
//
// See package contrib/sim.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/contrib/sim"
)

type options struct {
	Kinds      []string `arg:"" optional:"" help:"Kinds of receivers: parts of their names; none: all." placeholder:"KIND"`
	List       bool     `help:"Print the names of all kinds and exit."`
	Seeds      int      `help:"Runs of each kind; the worst counts." default:"5"`
	First      int      `help:"Seed of the first run: others than those that the controller was tuned with." default:"1"`
	Population string   `help:"Meet receivers drawn from a population, one for each seed: ordinary, hard, moody, busy, throttling; or the ten of the table." enum:",ordinary,hard,moody,busy,throttling,table" default:""`
	Worst      int      `help:"Of a population, tell of so many of the worst." default:"8"`
	Course     bool     `help:"Tell the run of the first seed second by second."`
	Markdown   bool     `help:"Print the table as Markdown."`
	Plots      string   `help:"Write a picture of each kind, SVG, into this directory." type:"path" placeholder:"DIR"`
}

const description = `Drives the agent's session controller against simulated receivers and prints,
for each kind, goodput over the possible, refusals for each message accepted (over
the first 10 minutes, and after the learning), the time to 90% of the possible
in transaction times, and the time to find a lifted limit of that which is allowed.

    millrace-sim
    millrace-sim --plots /tmp/plots "client 20" bans`

func main() {
	var o options
	ctx := kong.Parse(&o, kong.Name("millrace-sim"), kong.Description(description))
	ctx.FatalIfErrorf(o.run(os.Stdout))
}

func (o *options) run(out io.Writer) error {
	if o.Population != "" {
		return o.meet(out)
	}
	kinds := o.chosen(sim.Kinds())
	if len(kinds) == 0 {
		return fmt.Errorf("no kind is named %s: --list prints all", strings.Join(o.Kinds, " or "))
	}
	if o.List {
		for _, k := range kinds {
			if _, err := fmt.Fprintln(out, k.Name); err != nil {
				return err
			}
		}
		return nil
	}
	var rows []*sim.Row
	for _, k := range kinds {
		if o.Course {
			if err := sim.WriteCourse(out, k, uint64(o.First)); err != nil {
				return err
			}
		}
		rows = append(rows, sim.NewRow(k, o.First, max(1, o.Seeds)))
	}
	if o.Plots != "" {
		if err := draw(o.Plots, rows); err != nil {
			return err
		}
	}
	if o.Markdown {
		return sim.WriteMarkdown(out, rows)
	}
	return sim.WriteTable(out, rows)
}

// meet sends to a population.
func (o *options) meet(out io.Writer) error {
	if o.Population == "table" {
		for _, k := range o.chosen(sim.Table()) {
			if _, err := fmt.Fprintf(out, "%s: %v\n", k.Name, sim.MeetKind(k, uint64(o.First))); err != nil {
				return err
			}
		}
		return nil
	}
	p := sim.Ordinary
	switch o.Population {
	case "hard":
		p = sim.Hard
	case "moody":
		p = sim.Moody
	case "busy":
		p = sim.Busy
	case "throttling":
		p = sim.Throttling
	}
	if o.Course {
		k := p.Draw(uint64(o.First))
		return sim.WriteCourse(out, k, uint64(o.First))
	}
	var all sim.Census
	for i := range o.Seeds {
		m := p.Meet(uint64(o.First + i))
		m.Result = nil
		all = append(all, m)
	}
	return all.Write(out, o.Worst)
}

// chosen are the kinds that the arguments name.
func (o *options) chosen(all []sim.Kind) (list []sim.Kind) {
	for _, k := range all {
		chosen := len(o.Kinds) == 0
		for _, name := range o.Kinds {
			chosen = chosen || strings.Contains(k.Name, name)
		}
		if chosen {
			list = append(list, k)
		}
	}
	return list
}

func draw(dir string, rows []*sim.Row) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	plain := regexp.MustCompile(`[^a-z0-9]+`)
	for _, r := range rows {
		name := plain.ReplaceAllString(strings.ToLower(r.Kind.Name), "-") + ".svg"
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := r.Chart().Write(f); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}
