package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// The pages of the board.
const (
	sitesPage = iota
	streamsPage
	sourcesPage // if mail leaves from addresses of the configuration
	pages
)

// boardColumn is one of a page: its heading, how wide it is (the last one takes what is
// left), and how rows are sorted by it.
type boardColumn struct {
	head  string
	width int
	less  func(a, b *boardRow) int
}

var byName = func(a, b *boardRow) int { return cmp.Compare(a.name, b.name) }

// boardColumns are those of the pages; a page is sorted by the first one at first.
var boardColumns = [pages][]boardColumn{
	{
		{"WAIT", 6, func(a, b *boardRow) int { return cmp.Compare(b.backlog, a.backlog) }},
		{"DEFER", 6, func(a, b *boardRow) int { return cmp.Compare(b.deferred, a.deferred) }},
		{"SESS", 7, func(a, b *boardRow) int { return cmp.Compare(b.sessions, a.sessions) }},
		{"RATE", 6, func(a, b *boardRow) int { return cmp.Compare(b.rate, a.rate) }},
		{"LAT", 6, func(a, b *boardRow) int { return cmp.Compare(b.latency, a.latency) }},
		{"REFUS", 6, func(a, b *boardRow) int { return cmp.Compare(b.refused, a.refused) }},
		{"SITE", 20, byName},
	},
	{
		{"WAIT", 6, func(a, b *boardRow) int { return cmp.Compare(b.backlog, a.backlog) }},
		{"DEFER", 6, func(a, b *boardRow) int { return cmp.Compare(b.deferred, a.deferred) }},
		{"ACTIVE", 7, func(a, b *boardRow) int { return cmp.Compare(b.sessions, a.sessions) }},
		{"HELD", 6, func(a, b *boardRow) int { return cmp.Compare(b.refused, a.refused) }},
		{"PRIO", 5, func(a, b *boardRow) int { return cmp.Compare(b.rate, a.rate) }},
		{"STREAM", 28, byName},
	},
	{
		{"WAIT", 6, func(a, b *boardRow) int { return cmp.Compare(b.backlog, a.backlog) }},
		{"SESS", 7, func(a, b *boardRow) int { return cmp.Compare(b.sessions, a.sessions) }},
		{"RATE", 6, func(a, b *boardRow) int { return cmp.Compare(b.rate, a.rate) }},
		{"ADDRESS", 28, byName},
	},
}

// boardRow is a site or a stream: its cells, and what it is sorted by.
type boardRow struct {
	name, cause                          string
	cells                                []string
	backlog, deferred, sessions, refused int // of a stream: active, held
	rate, latency                        float64
}

// board is what top shows. It is changed by news, by keys (keys.go) and by the size of
// the terminal, and asks nobody.
type board struct {
	width, height int // of the terminal; height 0: as many lines as it takes
	page          int
	sort          [pages]int // column
	chosen        string     // name of a row; "" if there is none
	said          string     // what came of the last key
	news          news       // the last that had no error
	lost          error      // why there is no newer one
	rows          []boardRow

	why     string // the site that is explained instead; "" if none is
	changes []control.Change
	back    int // how many of the last changes are scrolled away
}

// take takes the state of the agent in, or keeps the last one and says why.
func (b *board) take(n news) {
	if b.lost = n.err; n.err != nil {
		return
	}
	if n.page == streamsPage {
		n.deferred = b.news.deferred
	} else {
		n.streams = b.news.streams
	}
	b.news = n
	b.arrange()
}

// arrange makes the rows of the page and puts them in order. The chosen row stays
// chosen while it exists.
func (b *board) arrange() {
	b.rows = b.rows[:0]
	if b.page == sitesPage && b.news.status != nil {
		for i := range b.news.status.Sites {
			b.rows = append(b.rows, siteRow(&b.news.status.Sites[i], b.news.deferred))
		}
	}
	if b.page == streamsPage {
		for i := range b.news.streams {
			b.rows = append(b.rows, streamRow(&b.news.streams[i], b.news.status))
		}
	}
	if b.page == sourcesPage && b.news.status != nil {
		for i := range b.news.status.Sources {
			b.rows = append(b.rows, sourceRow(&b.news.status.Sources[i], b.news.status.Sites))
		}
	}
	less := boardColumns[b.page][b.sort[b.page]].less
	slices.SortFunc(b.rows, func(x, y boardRow) int { return cmp.Or(less(&x, &y), byName(&x, &y)) })
	at := b.place()
	if b.chosen = ""; len(b.rows) > 0 {
		b.chosen = b.rows[at].name
	}
}

func siteRow(s *control.Site, deferred map[string]int) boardRow {
	latency := "-"
	if s.Latency > 0 {
		latency = brief(time.Duration(s.Latency * float64(time.Second)))
	}
	d := deferred[s.Name]
	return boardRow{
		name: s.Name, cause: cmp.Or(heldBack(s), s.PausedInWords(), s.Cause), backlog: s.Waiting + s.Paused + d, deferred: d, sessions: s.Sessions, refused: s.Refused, rate: s.Rate, latency: s.Latency,
		cells: []string{
			short(s.Waiting), short(d), fmt.Sprintf("%d/%d", s.Sessions, s.Target), rateOf(s.Rate), latency, short(s.Refused), s.Name,
		},
	}
}

// sourceRow sums up the sites that are called from a source address.
func sourceRow(s *control.Source, sites []control.Site) boardRow {
	r := boardRow{name: s.Address, cause: s.InWords()}
	for i := range sites {
		if x := &sites[i]; x.Source == s.Address {
			r.backlog += x.Waiting
			r.sessions += x.Sessions
			r.rate += x.Rate
		}
	}
	r.cells = []string{short(r.backlog), short(r.sessions), rateOf(r.rate), s.Address}
	return r
}

func streamRow(s *control.Stream, st *control.Status) boardRow {
	limits := ""
	if st != nil {
		for i := range st.Limits {
			if l := &st.Limits[i]; l.Name == s.Limits {
				limits = l.Name + ": " + l.InWords()
			}
		}
	}
	return boardRow{
		name: s.Name, cause: cmp.Or(s.Paused, s.Waits, limits), backlog: s.Waiting + s.Deferred, deferred: s.Deferred, sessions: s.Active, refused: s.Held, rate: float64(max(1, s.Priority)),
		cells: []string{short(s.Waiting), short(s.Deferred), short(s.Active), short(s.Held), fmt.Sprint(max(1, s.Priority)), s.Name},
	}
}

// place is the chosen row's, 0 if it is gone.
func (b *board) place() int {
	return max(0, slices.IndexFunc(b.rows, func(r boardRow) bool { return r.name == b.chosen }))
}

// nextPage is the page behind this one; that of addresses is there if there are any.
func (b *board) nextPage() int {
	next := (b.page + 1) % pages
	if next == sourcesPage && (b.news.status == nil || len(b.news.status.Sources) == 0) {
		next = sitesPage
	}
	return next
}

// paused says whether a pause of exactly this row is on, which is what the key ends.
func (b *board) paused(name string) bool {
	f := control.Filter{Site: name}
	if b.page == streamsPage {
		f = control.Filter{Stream: name}
	}
	return name != "" && b.page != sourcesPage && slices.ContainsFunc(b.news.standing.Pauses, func(x control.Pause) bool { return x.Filter == f })
}

// lines is how many rows there is room for: there are two lines of head, one of headings,
// three of foot.
func (b *board) lines() int {
	if b.height == 0 {
		return len(b.rows)
	}
	return max(1, b.height-6)
}

// text is the whole screen, in lines no longer than it is wide; whole ones where it has all rows.
func (b *board) text() string {
	var out strings.Builder
	line := func(format string, args ...any) {
		text := strings.TrimRight(printable.Sprintf(format, args...), " ")
		if b.height > 0 {
			text = ansi.Truncate(text, b.width, "+")
		}
		out.WriteString(text + "\n")
	}
	if b.why != "" {
		b.explanation(line)
		return out.String()
	}
	st, rate := b.news.status, 0.0
	for _, s := range st.Sites {
		rate += s.Rate
	}
	line("millrace: %s waiting, %s deferred, %s active, %s held; %d sessions; %s/s",
		thousands(st.Waiting), thousands(st.Deferred), thousands(st.Active), thousands(st.Held), st.Sessions, rateOf(rate))
	line("%s", b.notice())
	head, sorted := boardColumns[b.page], b.sort[b.page]
	heads := make([]string, len(head))
	for i, c := range head {
		if heads[i] = c.head; i == sorted {
			heads[i] = "*" + c.head
		}
	}
	last := [pages]string{"WHY", "PAUSED, LIMITS", "WHAT"}[b.page]
	line("  %s  %s", cells(b.page, heads), last)
	n := b.lines()
	first := max(0, min(b.place()-n/2, len(b.rows)-n))
	for i := first; i < min(first+n, len(b.rows)); i++ {
		r, mark := &b.rows[i], " "
		if r.name == b.chosen && b.height > 0 {
			mark = ">"
		}
		cause := r.cause
		if b.paused(r.name) && b.page == sitesPage && !strings.HasPrefix(cause, "paused: ") {
			cause = "PAUSED  " + cause
		}
		line("%s %s  %s", mark, cells(b.page, r.cells), cause)
	}
	if b.height == 0 {
		return out.String()
	}
	for range n - (min(first+n, len(b.rows)) - first) {
		line("")
	}
	b.foot(line)
	return strings.TrimSuffix(out.String(), "\n")
}

// foot shows the chosen row's cause in full, and the keys.
func (b *board) foot(line func(string, ...any)) {
	about := ""
	if len(b.rows) > 0 {
		if r := &b.rows[b.place()]; r.cause != "" {
			about = printable.String(r.name + ": " + r.cause)
		}
	}
	about = ansi.Truncate(about, 2*b.width, "+")
	line("%s", ansi.Cut(about, 0, b.width))
	line("%s", ansi.Cut(about, b.width, 2*b.width))
	pause := "p pause"
	if b.paused(b.chosen) {
		pause = "p resume"
	}
	next := [pages]string{"sites", "streams", "addresses"}[b.nextPage()]
	switch b.page {
	case sitesPage:
		line("q quit  tab %s  s sort  %s  f flush  enter explain", next, pause)
	case streamsPage:
		line("q quit  tab %s  s sort  %s  f flush", next, pause)
	default:
		line("q quit  tab %s  s sort", next)
	}
}

// notice is what the second line says: what is wrong, then what came of the last key,
// then who holds us back, and what is paused as a whole.
func (b *board) notice() string {
	switch {
	case b.lost != nil:
		return "NOT UP TO DATE: " + b.lost.Error()
	case b.said != "":
		return b.said
	}
	var parts []string
	if b.news.status != nil {
		if held := heldBackSum(b.news.status.Sites); held != "" { // first, as a pause may have a long reason
			parts = append(parts, held)
		}
	}
	if n := len(b.news.standing.Pauses); n == 1 {
		parts = append(parts, "paused: "+b.news.standing.Pauses[0].InWords())
	} else if n > 1 {
		parts = append(parts, fmt.Sprintf("%d pauses are on: millrace brakes", n))
	}
	return strings.Join(parts, "; ")
}

// explanation shows the changes of a site, the newest ones if not all have room.
func (b *board) explanation(line func(string, ...any)) {
	line("%s: how many sessions, how fast, and why", b.why)
	notice := b.notice()
	if n := len(b.changes); n > 0 && b.changes[n-1].Now != nil && b.lost == nil && b.said == "" {
		notice = cmp.Or(heldBack(&b.changes[n-1].Now.Site), notice)
	}
	line("%s", notice)
	end := len(b.changes) - b.back
	n := max(1, b.height-4)
	shown := b.changes[max(0, end-n):end]
	for i := range shown {
		line("%s", inLine(&shown[i]))
	}
	for range n - len(shown) {
		line("")
	}
	line("")
	line("q quit  esc back  up, down")
}

// cells puts a row's cells into the page's columns: numbers to the right, the name to
// the left.
func cells(page int, list []string) string {
	var out strings.Builder
	for i, c := range boardColumns[page] {
		text := ansi.Truncate(printable.String(list[i]), c.width, "+")
		room := strings.Repeat(" ", c.width-ansi.StringWidth(text))
		if i == len(list)-1 {
			out.WriteString(" " + text + room)
		} else {
			out.WriteString(room + text)
		}
	}
	return out.String()
}

// short writes a number in at most five characters.
func short(n int) string {
	switch {
	case n < 100_000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%dk", n/1000)
	case n < 100_000_000:
		return fmt.Sprintf("%.1fM", float64(n/100_000)/10)
	}
	return fmt.Sprintf("%dM", n/1_000_000)
}

// rateOf writes messages per second in at most five characters.
func rateOf(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 10:
		return fmt.Sprintf("%.2f", r)
	case r < 100:
		return fmt.Sprintf("%.1f", r)
	}
	return short(int(r))
}

// brief writes a time in at most five characters.
func brief(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%dm", int(d.Minutes()))
}
