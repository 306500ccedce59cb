package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// topCmd watches the agent at work. What it shows is made in board.go, what keys do
// in keys.go; this file asks the agent.
type topCmd struct {
	Every   time.Duration `default:"2s" placeholder:"TIME" help:"How often to ask the agent. Default: ${default}."`
	Streams bool          `help:"Begin with the streams, not with the sites."`
}

func (c *topCmd) Help() string {
	return `Shows the sites, or the streams, and what goes on there:

  WAIT DEFER  recipients ready to go, and those that wait for a retry
  SESS        sessions that are up / that are wanted
  RATE LAT    recipients a second that the receiver accepts; how long a transaction takes
  REFUS       connects and messages that were one too many, or too fast
  WHY         what holds the site back: suspended, dead, refused, slowed, crowded (others
              have its address's connections), queue_limit, agent_limit, fleet_limit,
              and the reply; else what was behind the last change of sessions or
              pace. Of the row that is marked with > it stands below in full

Keys: up and down, or j and k, choose a row; tab changes between sites, streams and the
addresses that mail leaves from; s sorts by the next column; p pauses the row, or lets it
go on; f flushes it, enter explains a site, as millrace why does; q quits.

Without a terminal, or where TERM is dumb, it prints the table once.

Examples:
  millrace top
  millrace top --streams
  millrace top | head -20`
}

func (c *topCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	if c.Every <= 0 {
		return program.Usage("--every: say how often, like 2s")
	}
	m := top{agent: client, ctx: ctx, every: c.Every, board: board{width: 80, height: 24}}
	if c.Streams {
		m.page = streamsPage
	}
	now := m.ask(m.page)
	if now.err != nil {
		return now.err
	}
	m.take(now)
	if !term.IsTerminal(int(os.Stdout.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) || os.Getenv("TERM") == "dumb" {
		m.height = 0 // all rows
		_, err := printable.Fprintf(os.Stdout, "%s", printable.Block(m.text()))
		return err
	}
	_, err = tea.NewProgram(&m, tea.WithContext(ctx)).Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil // asked to end, as by ^C
	}
	return err
}

// admin is what top asks of the agent.
type admin interface {
	Status(context.Context) (*control.Status, error)
	Shape(context.Context, string, control.Filter) ([]control.Shape, error)
	Streams(context.Context) ([]control.Stream, error)
	Standing(context.Context) (control.StandingOrders, error)
	Why(context.Context, string) ([]control.Change, error)
	Pause(context.Context, control.Pause) error
	Resume(context.Context, control.Filter) ([]control.Pause, error)
	Act(context.Context, control.Action, func(control.Selected)) (control.Selected, error)
}

var _ admin = (*control.Client)(nil)

// top is the program: the board, and where it comes from.
type top struct {
	board
	ctx    context.Context
	agent  admin
	every  time.Duration
	asking bool // news is under way
}

// The messages that top.Update gets beside those of the terminal.
type (
	// news is the state of the agent, or why it cannot be had.
	news struct {
		page     int
		status   *control.Status
		deferred map[string]int // by site
		streams  []control.Stream
		standing control.StandingOrders
		err      error
	}
	tick   struct{}
	done   struct{ text string } // what came of a key
	whyMsg struct {
		site    string
		changes []control.Change
		err     error
	}
)

var _ tea.Model = (*top)(nil)

// Init implements tea.Model.
func (t *top) Init() tea.Cmd { return t.wait() }

func (t *top) wait() tea.Cmd { return tea.Tick(t.every, func(time.Time) tea.Msg { return tick{} }) }

// Update implements tea.Model.
func (t *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = msg.Width, msg.Height
	case tick:
		return t, tea.Batch(t.wait(), t.refresh())
	case news:
		t.asking = false
		t.take(msg)
		if msg.page != t.page {
			return t, t.refresh()
		}
	case done:
		t.said = msg.text
		return t, t.refresh()
	case whyMsg:
		if t.said = ""; msg.err != nil {
			t.said = msg.err.Error()
			break
		}
		t.why, t.changes = msg.site, msg.changes
	case tea.KeyPressMsg:
		return t, t.obey(t.press(msg.String()))
	}
	return t, nil
}

// refresh asks the agent, away from the screen, unless that is being done.
func (t *top) refresh() tea.Cmd {
	if t.asking {
		return nil
	}
	t.asking = true
	page := t.page
	return func() tea.Msg { return t.ask(page) }
}

// View implements tea.Model.
func (t *top) View() tea.View {
	v := tea.NewView(t.text())
	v.AltScreen = true
	return v
}

// ask gets the state of the agent; of the streams only when they are looked at, since
// counting them takes a look at every recipient.
func (t *top) ask(page int) news {
	n := news{page: page}
	ctx, cancel := context.WithTimeout(t.ctx, 30*time.Second)
	defer cancel()
	if n.status, n.err = t.agent.Status(ctx); n.err != nil {
		return n
	}
	if n.standing, n.err = t.agent.Standing(ctx); n.err != nil {
		return n
	}
	if page == streamsPage {
		n.streams, n.err = t.agent.Streams(ctx)
		return n
	}
	var list []control.Shape
	list, n.err = t.agent.Shape(ctx, "site", control.Filter{State: "deferred"})
	n.deferred = make(map[string]int, len(list))
	for _, s := range list {
		n.deferred[s.Name] = s.Total
	}
	return n
}

// obey does what a key asked for, away from the screen.
func (t *top) obey(w command) tea.Cmd {
	filter := control.Filter{Site: w.name}
	if t.page == streamsPage {
		filter = control.Filter{Stream: w.name}
	}
	say := func(err error, text string) tea.Msg {
		if err != nil {
			return done{err.Error()}
		}
		return done{text}
	}
	switch w.what {
	case wishQuit:
		return tea.Quit
	case wishNow:
		return t.refresh()
	case wishPause:
		return func() tea.Msg {
			return say(t.agent.Pause(t.ctx, control.Pause{Filter: filter, Reason: "millrace top"}), w.name+" is paused; p lets it go on")
		}
	case wishResume:
		return func() tea.Msg {
			_, err := t.agent.Resume(t.ctx, filter)
			return say(err, w.name+" goes on")
		}
	case wishFlush:
		return func() tea.Msg {
			n, err := t.agent.Act(t.ctx, control.Action{Verb: control.VerbFlush, Filter: filter}, nil)
			return say(err, fmt.Sprintf("%s: %s will be tried now", w.name, count(n.Recipients, "recipient")))
		}
	case wishWhy:
		return func() tea.Msg {
			changes, err := t.agent.Why(t.ctx, w.name)
			return whyMsg{w.name, changes, err}
		}
	}
	return nil
}
