package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/millrace/millrace/agent/control"
)

// busy is an agent with three sites and two streams; it keeps what was asked of it.
type busy struct {
	backend
	asked   []string
	pauses  []control.Pause
	fault   error
	sources []control.Source
	limits  []control.StreamLimits
}

func (b *busy) Status(context.Context) (*control.Status, error) {
	if b.fault != nil {
		return nil, b.fault
	}
	st := b.backend.Status()
	st.Sites = append(st.Sites, control.Site{Name: "mx.slow.example", Queue: "general", Waiting: 5, Rate: 99.5, Latency: 300, Refused: 1_234_567})
	for i := range st.Sites {
		if b.sources != nil {
			st.Sites[i].Source = b.sources[0].Address
		}
	}
	st.Sources, st.Limits = b.sources, b.limits
	return &st, nil
}

func (b *busy) Shape(_ context.Context, by string, f control.Filter) ([]control.Shape, error) {
	return []control.Shape{{Name: "mx.far.example", Total: 250_000}}, nil
}

func (b *busy) Streams(context.Context) ([]control.Stream, error) { return b.backend.Streams(), nil }

func (b *busy) Standing(context.Context) (control.StandingOrders, error) {
	return control.StandingOrders{Pauses: b.pauses}, nil
}

func (b *busy) Why(_ context.Context, site string) ([]control.Change, error) {
	return b.backend.Why(site)
}

func (b *busy) Pause(_ context.Context, x control.Pause) error {
	b.asked = append(b.asked, "pause "+x.Filter.String())
	b.pauses = append(b.pauses, x)
	return nil
}

func (b *busy) Resume(_ context.Context, f control.Filter) ([]control.Pause, error) {
	b.asked = append(b.asked, "resume "+f.String())
	b.pauses = nil
	return nil, nil
}

func (b *busy) Act(_ context.Context, o control.Action, _ func(control.Selected)) (control.Selected, error) {
	b.asked = append(b.asked, fmt.Sprint(o.Verb, " ", o.Filter))
	return control.Selected{Recipients: 7}, nil
}

// watching is a top that has its first news, on a terminal of 80 columns and 12 lines.
func watching(t *testing.T) (*top, *busy) {
	t.Helper()
	b := &busy{}
	m := &top{agent: b, ctx: t.Context(), every: time.Hour}
	feed(m, tea.WindowSizeMsg{Width: 80, Height: 12})
	feed(m, m.ask(m.page))
	return m, b
}

// feed has a message and all that follows from it take effect, but for the timer.
func feed(m *top, msg tea.Msg) {
	if _, cmd := m.Update(msg); cmd != nil {
		if next := cmd(); next != nil {
			feed(m, next)
		}
	}
}

func keys(m *top, list ...string) {
	for _, k := range list {
		press := tea.KeyPressMsg{Text: k}
		if code, special := map[string]rune{"tab": tea.KeyTab, "enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown}[k]; special {
			press = tea.KeyPressMsg{Code: code}
		}
		feed(m, press)
	}
}

const sitesBoard = `millrace: 1,200 waiting, 30 deferred, 20 active, 0 held; 8 sessions; 144/s
held back: 1 refused
   *WAIT DEFER   SESS  RATE   LAT REFUS SITE                  WHY
>    100  250k    1/2     0     -     0 mx.far.example        start
    1100     0    7/8  45.2 123ms     3 google                refused: takes 8 +
       5     0    0/0  99.5    5m  1.2M mx.slow.example



mx.far.example: start

q quit  tab streams  s sort  p pause  f flush  enter explain`

func TestBoardFitsEightyColumns(t *testing.T) {
	t.Parallel()
	m, _ := watching(t)
	if got := m.View(); got.Content != sitesBoard || !got.AltScreen {
		t.Errorf("got:\n%s\nwant:\n%s", got.Content, sitesBoard)
	}
	keys(m, "down")
	if got := m.text(); !strings.Contains(got, "\n>   1100 ") || !strings.Contains(got, "\ngoogle: refused: takes 8 sessions, 20 are allowed; 421 too many\n") {
		t.Errorf("after down:\n%s", got)
	}
	m.Update(tea.WindowSizeMsg{Width: 40, Height: 8})
	for line := range strings.Lines(m.text()) {
		if len(line) > 41 {
			t.Errorf("%q is longer than 40 columns", line)
		}
	}
	if got := m.text(); strings.Count(got, "\n") != 7 || !strings.Contains(got, "\n>   1100 ") {
		t.Errorf("eight lines have no room for the chosen row:\n%s", got)
	}
}

func TestBoardIsSortedByEachColumn(t *testing.T) {
	t.Parallel()
	m, _ := watching(t)
	var got []string
	for range len(boardColumns[sitesPage]) + 1 {
		var names []string
		for _, r := range m.rows {
			names = append(names, strings.TrimSuffix(strings.TrimPrefix(r.name, "mx."), ".example"))
		}
		got = append(got, strings.Join(names, " "))
		keys(m, "s")
	}
	want := []string{"far google slow", "far google slow", "google far slow", "slow google far", "slow google far", "slow google far", "google far slow", "far google slow"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if m.chosen != "mx.far.example" {
		t.Errorf("%s is chosen after sorting", m.chosen)
	}
}

func TestKeysAskTheAgent(t *testing.T) {
	t.Parallel()
	m, b := watching(t)
	keys(m, "down", "p")
	if got := m.text(); !strings.Contains(got, "\ngoogle is paused; p lets it go on\n") || !strings.Contains(got, "PAUSED  refused") || !strings.Contains(got, "p resume") {
		t.Errorf("after p:\n%s", got)
	}
	keys(m, "p", "f")
	if got := m.text(); !strings.Contains(got, "\ngoogle: 7 recipients will be tried now\n") {
		t.Errorf("after f:\n%s", got)
	}
	keys(m, "tab", "p", "f")
	want := []string{"pause site google", "resume site google", "flush site google", "pause stream news.example.com", "flush stream news.example.com"}
	if fmt.Sprint(b.asked) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", b.asked, want)
	}
	if got := m.text(); !strings.Contains(got, ">   1200    30     20     3    4 news.example.com\n") || !strings.Contains(got, " sale.example.com              wrong price\n") {
		t.Errorf("the streams:\n%s", got)
	}
}

// Where mail leaves from addresses of the configuration they have a page of their own; streams
// show how much of their limits is used.
func TestBoardShowsAddressesAndLimits(t *testing.T) {
	t.Parallel()
	m, b := watching(t)
	keys(m, "tab", "tab")
	if m.page != sitesPage {
		t.Errorf("page %d without addresses", m.page)
	}
	b.sources = []control.Source{
		{Address: "192.0.2.25", Pool: "news", Hello: "out1.example.com", Weight: 3},
		{Address: "192.0.2.26", Pool: "news", Hello: "out2.example.com", Weight: 1, Absent: true},
	}
	b.limits = []control.StreamLimits{{Name: "letters", Rate: 20}}
	feed(m, m.ask(m.page))
	keys(m, "tab")
	m.news.streams[0].Limits = "letters"
	m.arrange()
	if got := m.text(); !strings.Contains(got, "\nnews.example.com: letters: at most 20 messages/s\n") || !strings.Contains(got, "q quit  tab addresses") {
		t.Errorf("the streams:\n%s", got)
	}
	keys(m, "tab")
	got := m.text()
	if !strings.Contains(got, ">   1205      8   144 192.0.2.25                    of pool news, weight 3") ||
		!strings.Contains(got, "       0      0     0 192.0.2.26                    of pool news, weight 1") {
		t.Errorf("the addresses:\n%s", got)
	}
	keys(m, "p", "f", "enter", "down")
	if got := m.text(); len(b.asked) != 0 || !strings.Contains(got, "192.0.2.26: of pool news, weight 1, greets as out2.example.com; cannot be bound") {
		t.Errorf("asked %q\n%s", b.asked, got)
	}
	keys(m, "tab")
	if m.page != sitesPage {
		t.Errorf("page %d", m.page)
	}
}

func TestSiteIsExplained(t *testing.T) {
	t.Parallel()
	m, _ := watching(t)
	keys(m, "down", "enter")
	if got := m.text(); !strings.HasPrefix(got, "google: how many sessions") || !strings.Contains(got, " 20 -> 11  at most 12.5/s  refused with 11 up: 421 too many") ||
		!strings.Contains(got, " 0 -> 2    start") {
		t.Errorf("got:\n%s", got)
	}
	keys(m, "up")
	if got := m.text(); strings.Contains(got, "20 -> 11") || !strings.Contains(got, "start") {
		t.Errorf("scrolled by one:\n%s", got)
	}
	keys(m, "esc", "up", "e")
	if got := m.text(); !strings.Contains(got, "\nsite mx.far.example: not known to the agent\n") || !strings.Contains(got, ">    100 ") {
		t.Errorf("a site without history:\n%s", got)
	}
}

func TestBoardKeepsTheLastStateWhileTheAgentIsAway(t *testing.T) {
	t.Parallel()
	m, b := watching(t)
	b.fault = errors.New("nobody answers")
	feed(m, m.ask(m.page))
	if got := m.text(); !strings.Contains(got, "\nNOT UP TO DATE: nobody answers\n") || !strings.Contains(got, "google") {
		t.Errorf("got:\n%s", got)
	}
	b.fault = nil
	feed(m, m.ask(m.page))
	if got := m.text(); got != sitesBoard {
		t.Errorf("got:\n%s", got)
	}
}

func TestNumbersAreShort(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 99_999: "99999", 100_000: "100k", 999_999: "999k", 1_000_000: "1.0M", 99_999_999: "99.9M", 123_456_789: "123M"} {
		if got := short(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

// TestTopPrintsOnceWithoutATerminal is also what TERM=dumb gets.
func TestTopPrintsOnceWithoutATerminal(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TERM=dumb", "--config", serve(t, backend(nil)), "top")
	want := `millrace: 1,200 waiting, 30 deferred, 20 active, 0 held; 8 sessions; 45.2/s
held back: 1 refused; paused: site google until`
	if r.code != 0 || !strings.HasPrefix(r.stdout, want) || !strings.Contains(r.stdout, "\n    1100     0    7/8  45.2 123ms     3 google ") || strings.Contains(r.stdout, "\x1b") {
		t.Errorf("exit code %d:\n%s\n%s", r.code, r.stdout, r.stderr)
	}
}
