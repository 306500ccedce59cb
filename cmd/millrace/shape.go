package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strconv"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// shapeCmd shows how old the queue is, as qshape does.
type shapeCmd struct {
	filterFlags `embed:"" group:"Which mail (several conditions must all hold):"`
	By          string `default:"destination" enum:"destination,stream,sender,site,queue" placeholder:"WHAT" help:"Rows: destination, stream, sender (its domain, as with qshape -s), site or queue. Default: ${default}."`
	Top         int    `default:"20" placeholder:"N" help:"Rows below TOTAL; 0 is all. Default: ${default}."`
	JSON        bool   `name:"json" help:"One JSON object a line."`
}

func (c *shapeCmd) Help() string {
	return `Counts queued recipients by age, in the layout of qshape(1): column T is all of them, 5
those up to five minutes old, 10 those from five to ten minutes, and so on. Young mail
alone is a healthy queue; a row that is old is a destination that does not take its mail.

Examples:
  millrace shape
  millrace shape --state deferred
  millrace shape --by stream --queue google`
}

func (c *shapeCmd) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	rows, err := client.Shape(ctx, c.By, c.filter())
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	shown := rows
	if c.Top > 0 {
		shown = rows[:min(c.Top, len(rows))]
	}
	if c.JSON {
		return printJSON(out, shown)
	}
	qshape(out, rows, shown)
	return nil
}

// qshape writes a table in the layout of Postfix's program of that name: numbers in
// columns just wide enough, names to the right of what is left of 80 columns, their
// beginning cut off where that is too little. The total is of all rows.
func qshape(out io.Writer, all, shown []control.Shape) {
	total := control.Shape{Name: "TOTAL"}
	for _, row := range all {
		total.Total += row.Total
		for i, n := range row.ByAge {
			total.ByAge[i] += n
		}
	}
	heads := []string{"T"}
	for _, age := range control.Ages {
		heads = append(heads, strconv.Itoa(int(age.Minutes())))
	}
	heads = append(heads, heads[len(heads)-1]+"+")
	numbers := func(row *control.Shape) []string {
		list := []string{strconv.Itoa(row.Total)}
		for _, n := range row.ByAge {
			list = append(list, strconv.Itoa(n))
		}
		return list
	}
	widths, left := make([]int, len(heads)), 80
	for i, n := range numbers(&total) {
		widths[i] = max(3, 1+max(len(n), len(heads[i])))
		left -= widths[i]
	}
	left = max(left, 18)
	line := func(name string, cells []string) {
		if runes := []rune(printable.String(name)); len(runes) > left {
			name = "+" + string(runes[len(runes)-left+1:])
		}
		printable.Fprintf(out, "%*s", left, name)
		for i, cell := range cells {
			printable.Fprintf(out, "%*s", widths[i], cell)
		}
		printable.Fprintln(out)
	}
	line("", heads)
	line(total.Name, numbers(&total))
	for i := range shown {
		line(or(shown[i].Name, "(none)"), numbers(&shown[i]))
	}
}
