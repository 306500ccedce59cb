// Package plot draws line charts as SVG, for the reports of contrib's commands.
//
// A [Chart] is plain data, and its Write draws it. Its fields are what a reader needs:
// titles, units and, where it helps, a logarithmic axis. The picture has a white ground
// and can be read in print and without colours, since each line ends in its name.
package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// Chart is a chart of lines over one x axis.
type Chart struct {
	Title string
	X, Y  string // what the axes show, with the unit
	LogX  bool   // x is drawn by its logarithm to base 2; it must be positive
	Lines []Line
}

// Line is a series of points, x ascending. A point whose Y is NaN or infinite
// interrupts the line.
type Line struct {
	Name   string
	Points []Point
	Dashed bool // for limits and what ought to be reached
}

// Point is one point.
type Point struct{ X, Y float64 }

// The picture in SVG's units.
const (
	width, height             = 780, 420
	left, right, top, bottom  = 70, 170, 40, 50
	plotWidth, plotHeight     = width - left - right, height - top - bottom
	labelHeight, linesPerAxis = 13, 6
)

// colours tell apart, also for those who see red and green alike (Okabe and Ito).
var colours = [...]string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"}

// Write draws the chart.
func (c *Chart) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	text(&b, left, 20, `font-size="15"`, c.Title)
	x, y := c.axes()
	for _, v := range y.ticks() {
		at := top + plotHeight - y.place(v)*plotHeight
		fmt.Fprintf(&b, `<path d="M%d %.1fh%d" stroke="#ddd"/>`+"\n", left, at, plotWidth)
		text(&b, left-6, at+4, `text-anchor="end"`, figure(v))
	}
	for _, v := range x.ticks() {
		at := left + x.place(v)*plotWidth
		fmt.Fprintf(&b, `<path d="M%.1f %dv5" stroke="black"/>`+"\n", at, top+plotHeight)
		text(&b, at, top+plotHeight+18, `text-anchor="middle"`, figure(v))
	}
	fmt.Fprintf(&b, `<path d="M%d %dv%dh%d" fill="none" stroke="black"/>`+"\n", left, top, plotHeight, plotWidth)
	text(&b, left+plotWidth/2, height-12, `text-anchor="middle"`, c.X)
	text(&b, 0, 0, fmt.Sprintf(`text-anchor="middle" transform="translate(16 %d) rotate(-90)"`, top+plotHeight/2), c.Y)

	ends := labels{}
	for i, l := range c.Lines {
		colour := colours[i%len(colours)]
		dash := ""
		if l.Dashed {
			dash = ` stroke-dasharray="6 4"`
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="1.8"%s/>`+"\n", l.path(x, y), colour, dash)
		if n := len(l.Points); n > 0 {
			at := ends.free(top + plotHeight - y.place(finite(l.Points[n-1].Y, y.least))*plotHeight)
			text(&b, left+plotWidth+6, at+4, `fill="`+colour+`"`, l.Name)
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// path is the line in SVG's language.
func (l *Line) path(x, y axis) string {
	var b strings.Builder
	command := "M"
	for _, p := range l.Points {
		if !isFinite(p.Y) {
			command = "M"
			continue
		}
		fmt.Fprintf(&b, "%s%.1f %.1f", command, left+x.place(p.X)*plotWidth, top+plotHeight-y.place(p.Y)*plotHeight)
		command = "L"
	}
	return b.String()
}

// axes are made to hold all points; y begins at 0.
func (c *Chart) axes() (x, y axis) {
	x = axis{least: math.Inf(1), most: math.Inf(-1), log: c.LogX}
	for _, l := range c.Lines {
		for _, p := range l.Points {
			if isFinite(p.Y) {
				x.least, x.most = min(x.least, p.X), max(x.most, p.X)
				y.most = max(y.most, p.Y)
			}
		}
	}
	if x.most <= x.least {
		x.least, x.most = finite(x.least, 0), finite(x.least, 0)+1
	}
	if c.LogX { // its ticks are powers of 2
		x.least = math.Exp2(math.Floor(math.Log2(x.least)))
	}
	if y.most == 0 {
		y.most = 1
	}
	step := y.step()
	y.most = math.Ceil(y.most/step) * step
	return x, y
}

// axis is a range of values.
type axis struct {
	least, most float64
	log         bool
}

// place is where a value stands, from 0 to 1.
func (a axis) place(v float64) float64 {
	if a.log {
		return math.Log2(v/a.least) / math.Log2(a.most/a.least)
	}
	return (v - a.least) / (a.most - a.least)
}

// step is a round number that divides the axis into a few parts.
func (a axis) step() float64 {
	rough := (a.most - a.least) / linesPerAxis
	unit := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, k := range []float64{1, 2, 5} {
		if k*unit >= rough {
			return k * unit
		}
	}
	return 10 * unit
}

func (a axis) ticks() (list []float64) {
	if a.log {
		for v := a.least; v <= a.most*1.001; v *= 2 {
			list = append(list, v)
		}
		return list
	}
	step := a.step()
	for i := math.Ceil(a.least / step); i*step <= a.most*1.001; i++ {
		list = append(list, i*step)
	}
	return list
}

// labels keeps the names at the lines' ends from standing on each other.
type labels []float64

func (l *labels) free(at float64) float64 {
	for moved := true; moved; {
		moved = false
		for _, other := range *l {
			if math.Abs(other-at) < labelHeight {
				at, moved = other+labelHeight, true
			}
		}
	}
	*l = append(*l, at)
	return at
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

func finite(v, otherwise float64) float64 {
	if isFinite(v) {
		return v
	}
	return otherwise
}

// figure writes a value on an axis.
func figure(v float64) string {
	if math.Abs(v) >= 1e4 {
		return fmt.Sprintf("%gk", v/1000)
	}
	return fmt.Sprintf("%.4g", v)
}

func text(b *strings.Builder, x, y float64, attributes, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" %s>`, x, y, attributes)
	_ = xml.EscapeText(b, []byte(s)) // a strings.Builder takes everything
	b.WriteString("</text>\n")
}
