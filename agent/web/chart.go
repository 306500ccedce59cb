package web

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/history"
)

// chart is a drawing of some lines over time, and the same as a table. Its words
// stand outside the drawing, which is stretched to whatever room there is.
type chart struct {
	ID       string
	Title    string
	Lines    []line
	Top, Mid string // of the scale, which begins at 0
	Start    string // of the time, which ends now
	Summary  string // for who does not see it
	Rows     []chartRow
}

// line is one curve. Path is in a box of 1000 by 100.
type line struct {
	Name string
	Now  string
	Path string
	N    int // picks colour and dashes
}

// chartRow is a part of the time, newest first.
type chartRow struct {
	At     string
	Values []string
}

const (
	slots     = 180 // of the time axis: more would not be seen
	tableRows = 12
)

// curve is what a line is made of.
type curve struct {
	name   string
	series history.Series
	value  func(history.Point) float32
	holes  bool // 0 is "nothing was measured"
}

// axis is the time of a chart.
type axis struct {
	from, to time.Time
}

// draw makes a chart. unit writes a value with its unit.
func draw(id, title string, x axis, unit func(float64) string, curves ...curve) chart {
	c := chart{ID: "chart-" + id, Title: title, Start: ago(x.to.Sub(x.from))}
	top := 0.0
	means := make([][]float64, len(curves))
	for i, cv := range curves {
		means[i] = cv.means(x, slots)
		for _, y := range means[i] {
			if !math.IsNaN(y) {
				top = max(top, y)
			}
		}
	}
	top = round(top)
	c.Top, c.Mid = unit(top), unit(top/2)
	if c.Mid == c.Top { // of a scale from 0 to 1
		c.Mid = ""
	}
	var said []string
	for i, cv := range curves {
		now := "—"
		if y := cv.last(); !math.IsNaN(y) {
			now = unit(y)
		}
		c.Lines = append(c.Lines, line{Name: cv.name, Now: now, Path: path(means[i], top), N: i})
		said = append(said, cv.name+" "+now)
	}
	c.Summary = fmt.Sprintf("%s since %s, at most %s. Now: %s.", title, c.Start, c.Top, strings.Join(said, ", "))
	c.Rows = table(curves, x, unit)
	return c
}

// means are the averages of n parts of the time, NaN where nothing was measured.
func (c curve) means(x axis, n int) []float64 {
	sums, counts := make([]float64, n), make([]float64, n)
	width := x.to.Sub(x.from)
	for _, m := range c.series.Moments {
		i := int(int64(m.At.Sub(x.from)) * int64(n) / max(1, int64(width)))
		y := float64(c.value(m.Point))
		if i < 0 || i > n || c.holes && y == 0 || math.IsNaN(y) {
			continue
		}
		i = min(i, n-1)
		sums[i] += y
		counts[i]++
	}
	for i := range sums {
		sums[i] /= counts[i] // NaN for 0/0
	}
	return sums
}

// last is the newest value that was measured, NaN if none was.
func (c curve) last() float64 {
	for _, m := range slices.Backward(c.series.Moments) {
		if y := float64(c.value(m.Point)); !math.IsNaN(y) && (y != 0 || !c.holes) {
			return y
		}
	}
	return math.NaN()
}

// path draws over short gaps, which are parts that hold no sample.
func path(ys []float64, top float64) string {
	const gap = slots/30 + 1
	var b strings.Builder
	last := -1
	for i, y := range ys {
		if math.IsNaN(y) {
			continue
		}
		verb := byte('L')
		if last < 0 || i-last > gap {
			verb = 'M'
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteByte(verb)
		b.WriteString(short(1000 * (float64(i) + 0.5) / float64(len(ys))))
		b.WriteByte(' ')
		b.WriteString(short(100 - 100*y/top))
		last = i
	}
	return b.String()
}

func short(x float64) string { return trim(strconv.FormatFloat(x, 'f', 1, 64)) }

// round is the next of 1, 2, 5, 10, 20 ..., so that the scale stands still.
func round(x float64) float64 {
	if x <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, k := range []float64{1, 2, 5} {
		if x <= k*p {
			return k * p
		}
	}
	return 10 * p
}

func table(curves []curve, x axis, unit func(float64) string) []chartRow {
	columns := make([][]float64, len(curves))
	for i, c := range curves {
		columns[i] = c.means(x, tableRows)
	}
	var rows []chartRow
	part := x.to.Sub(x.from) / tableRows
	for r := tableRows - 1; r >= 0; r-- {
		row := chartRow{At: clock(x.from.Add(time.Duration(r)*part), x.to)}
		measured := false
		for i := range curves {
			text := "—"
			if y := columns[i][r]; !math.IsNaN(y) {
				text, measured = unit(y), true
			}
			row.Values = append(row.Values, text)
		}
		if measured {
			rows = append(rows, row)
		}
	}
	return rows
}

func ago(d time.Duration) string {
	if d < time.Hour {
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	}
	return length(d) + " ago"
}

func perSecond(x float64) string { return amount(x) + "/s" }

func count(x float64) string { return number(int(math.Round(x))) }

// length writes the span of a chart of an hour and more.
func length(d time.Duration) string {
	if d >= 48*time.Hour {
		return plural(int(d.Hours()/24), "day")
	}
	return plural(int(d.Hours()), "hour")
}

// spanLink chooses how far back the charts reach.
type spanLink struct {
	Text, Link string
	Chosen     bool
}

var spans = []struct {
	name string
	span time.Duration
}{{"15m", 15 * time.Minute}, {"1h", time.Hour}, {"6h", history.Span}, {"7d", 7 * 24 * time.Hour}, {"400d", 400 * 24 * time.Hour}}

// ownSpans is how many of them our own samples fill. The others are offered where there
// are older counts: package outcomes has them.
const ownSpans = 3

// span is how far back the charts reach: what is asked for, or the shortest
// that shows all there is.
func (v *view) span(page string) (axis, []spanLink) {
	chosen, offered := ownSpans-1, ownSpans
	if v.history.Reach(v.Time) > history.Span {
		offered = len(spans)
	}
	if all := v.history.Total(v.Time.Add(-history.Span)).Moments; len(all) > 0 {
		age := v.Time.Sub(all[0].At)
		for chosen > 0 && age <= spans[chosen-1].span {
			chosen--
		}
	} else {
		chosen = 0
	}
	for i, s := range spans[:offered] {
		if v.query.Get("span") == s.name {
			chosen = i
		}
	}
	separator := "?"
	if strings.Contains(page, "?") {
		separator = "&"
	}
	var links []spanLink
	for i, s := range spans[:offered] {
		text := length(s.span)
		if s.span < time.Hour {
			text = fmt.Sprintf("%d minutes", int(s.span.Minutes()))
		}
		links = append(links, spanLink{Text: text, Link: page + separator + "span=" + s.name, Chosen: i == chosen})
	}
	return axis{v.Time.Add(-spans[chosen].span), v.Time}, links
}

// maxQueueLines is how many queues a chart can show so that they can be told apart.
const maxQueueLines = 4

// charts are those of the whole.
func (v *view) charts(x axis) []chart {
	all := v.history.Total(x.from)
	var queues []curve
	rest := all // what waits in no queue that is shown
	rest.Moments = slices.Clone(all.Moments)
	for _, s := range v.history.Queues(x.from) {
		if len(queues) == maxQueueLines {
			break
		}
		queues = append(queues, curve{name: shown(s.Name), series: s, value: waiting})
		for i, j := len(s.Moments)-1, len(rest.Moments)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
			rest.Moments[j].Waiting = max(0, rest.Moments[j].Waiting-s.Moments[i].Waiting)
		}
	}
	if slices.ContainsFunc(rest.Moments, func(m history.Moment) bool { return m.Waiting > 0 }) {
		queues = append(queues, curve{name: "other", series: rest, value: waiting})
	}
	queues = append(queues, curve{name: "deferred, all queues", series: all, value: func(p history.Point) float32 { return p.Deferred }})
	return append(v.common(all, x), draw("backlog", "Recipients waiting, by queue", x, count, queues...), latency(all, x))
}

// siteCharts are those of one site; none if it has no series of its own.
func (v *view) siteCharts(name string, x axis) []chart {
	s, ok := v.history.Site(name, x.from)
	if !ok {
		return nil
	}
	return append(v.common(s, x), draw("backlog", "Recipients waiting", x, count, curve{name: "waiting", series: s, value: waiting}), latency(s, x))
}

func (v *view) common(s history.Series, x axis) []chart {
	return []chart{
		draw("rate", "Recipients a second", x, perSecond,
			curve{name: "delivered", series: s, value: func(p history.Point) float32 { return p.Sent }},
			curve{name: "deferred", series: s, value: func(p history.Point) float32 { return p.Deferrals }},
			curve{name: "bounced", series: s, value: func(p history.Point) float32 { return p.Bounces }}),
		draw("sessions", "Sessions", x, count,
			curve{name: "established", series: s, value: func(p history.Point) float32 { return p.Sessions }}),
	}
}

func waiting(p history.Point) float32 { return p.Waiting }

// latency is how long receivers take for a message, from MAIL to the reply to its content.
func latency(s history.Series, x axis) chart {
	return draw("latency", "Time a receiver takes for a message", x, seconds,
		curve{name: "median", series: s, value: func(p history.Point) float32 { return p.Median }, holes: true},
		curve{name: "95% within", series: s, value: func(p history.Point) float32 { return p.Slow }, holes: true})
}
