package web

import (
	"fmt"
	"math"
)

// Warmup is how far an address has come at a queue.
type Warmup struct {
	Address, Queue string
	What           string // in a line
	Trouble        bool   // it does not go on
	Days           []WarmupDay
}

// WarmupDay is one day of a Warmup; the last one is today.
type WarmupDay struct {
	Date        string
	Share, Used int // recipients
}

// maxWarmups is how many addresses and queues are drawn.
const maxWarmups = 6

// warmupRow is a course on the page.
type warmupRow struct {
	Title, What string
	Trouble     bool
	Chart       chart
}

// warmups are the first courses, drawn: what the plan gave on each day beside what was done.
func (v *view) warmups() (rows []warmupRow, more int) {
	list, more := first(v.Warmups, maxWarmups)
	for i := range list {
		w := &list[i]
		title := v.text(w.Address + " to " + w.Queue)
		rows = append(rows, warmupRow{Title: title, What: v.text(w.What), Trouble: w.Trouble, Chart: drawDays(fmt.Sprintf("warmup-%d", i), title+", recipients a day", w.Days)})
	}
	return rows, more
}

// drawDays draws days, each as wide as the others, the last of them today.
func drawDays(id, title string, days []WarmupDay) chart {
	c := chart{ID: "chart-" + id, Title: title}
	top := 0.0
	plan, done := make([]float64, len(days)), make([]float64, len(days))
	for i, d := range days {
		plan[i], done[i] = float64(d.Share), float64(d.Used)
		top = max(top, plan[i], done[i])
	}
	top = round(top)
	c.Top, c.Mid = count(top), count(top/2)
	last := WarmupDay{}
	if n := len(days); n > 0 {
		last, c.Start = days[n-1], days[0].Date
	}
	for i, y := range [...]struct {
		name string
		ys   []float64
		now  int
	}{{"plan", plan, last.Share}, {"done", done, last.Used}} {
		c.Lines = append(c.Lines, line{Name: y.name, Now: number(y.now), Path: pathOfDays(y.ys, top), N: i})
	}
	c.Summary = fmt.Sprintf("%s since %s, at most %s. Today: %s of %s.", title, c.Start, c.Top, number(last.Used), number(last.Share))
	for i := len(days) - 1; i >= 0; i-- {
		c.Rows = append(c.Rows, chartRow{At: days[i].Date, Values: []string{number(days[i].Share), number(days[i].Used)}})
	}
	return c
}

// pathOfDays is the path over days; a day alone is a line as long as it.
func pathOfDays(ys []float64, top float64) string {
	if len(ys) == 1 {
		ys = []float64{math.NaN(), ys[0], ys[0], math.NaN()}
	}
	return path(ys, top)
}
