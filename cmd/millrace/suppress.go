package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
)

// suppressCmd looks after the suppression list, of a running agent.
type suppressCmd struct {
	List   suppressList   `cmd:"" help:"Print the addresses that are suppressed."`
	Add    suppressAdd    `cmd:"" help:"Suppress addresses, until they are removed."`
	Remove suppressRemove `cmd:"" help:"Let addresses be tried again."`
	Import suppressImport `cmd:"" help:"Add a list: one address a line, or what export writes."`
	Export suppressExport `cmd:"" help:"Write the whole list as CSV."`
	Stats  suppressStats  `cmd:"" help:"Count entries."`
}

func (c *suppressCmd) Help() string {
	return `Addresses that have bounced for good several times in a row (user or host unknown,
or moved) are suppressed, in the stream whose mail bounced or in all: [suppression]
in the configuration says when, and whether mail to them is still sent
(mode = "advise", the default) or not (mode = "drop"). A delivery clears an address;
what you add here stays until you remove it. In a fleet the nodes tell each other what is
added, removed and learned; with --here a change stays on this node. Import a long list
on each node with --here: the fleet keeps the last 4,096 changes of up to 500 entries.

Examples:
  millrace suppress list --stream news.example.com
  millrace suppress add complains@example.net
  millrace suppress remove is-back@example.net
  millrace suppress stats
  millrace suppress import old-provider.txt
  millrace suppress export >suppressed.csv`
}

type suppressList struct {
	Stream *string `placeholder:"NAME" help:"Only this stream's; \"\" for what is suppressed in all."`
	All    bool    `short:"a" help:"Also what has bounced, but not often enough."`
	JSON   bool    `name:"json" help:"One JSON object a line."`
}

func (c *suppressList) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	enc := json.NewEncoder(printable.NewJSON(out))
	const row = "%-19s %7s  %-11s %-30s %s\n"
	if !c.JSON {
		printable.Fprintf(out, row, "LAST", "BOUNCES", "CLASS", "STREAM", "ADDRESS")
	}
	return client.Suppressions(ctx, func(s *control.Suppression) error {
		if !c.All && !s.Suppressed || c.Stream != nil && *c.Stream != s.Stream {
			return nil
		}
		if c.JSON {
			return enc.Encode(s)
		}
		stream, class, bounces := s.Stream, s.Class, strconv.Itoa(s.Bounces)
		if stream == "" {
			stream = "(all)"
		}
		if class == "none" {
			class = "(by admin)"
		}
		if !s.Suppressed {
			class += " (counted)"
		}
		_, err := printable.Fprintf(out, row, s.Last.Local().Format(time.DateTime), bounces, class, stream, s.Address)
		return err
	})
}

type suppressAdd struct {
	Addresses []string `arg:"" name:"address" help:"Addresses."`
	Stream    string   `placeholder:"NAME" help:"In this stream. Default: in all."`
	hereFlag
}

func (c *suppressAdd) Run(ctx context.Context, g *globals) error {
	for _, a := range c.Addresses {
		if err := checkAddress(a); err != nil {
			return err
		}
	}
	rest := c.Addresses
	return g.suppress(ctx, c.Here, func(s *control.Suppression) error {
		if len(rest) == 0 {
			return io.EOF
		}
		*s = control.Suppression{Address: rest[0], Stream: c.Stream}
		rest = rest[1:]
		return nil
	})
}

// suppress adds entries, and says so.
func (g *globals) suppress(ctx context.Context, here bool, next func(*control.Suppression) error) error {
	client, err := g.clientFor(here)
	if err != nil {
		return err
	}
	n, err := client.Suppress(ctx, next)
	if err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, entries(n), "added")
	if err := g.spread(ctx, client, here, "added"); err != nil {
		return err
	}
	st, err := client.SuppressionStats(ctx)
	if err == nil && st.Mode != "drop" {
		printable.Fprintf(os.Stderr, "millrace: [suppression] mode is %q, so mail is sent to these addresses all the same, but in streams with a mode of their own; remedy: set mode = \"drop\"\n", st.Mode)
	}
	return err
}

func entries(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return strconv.Itoa(n) + " entries"
}

func checkAddress(s string) error {
	if i := strings.LastIndexByte(s, '@'); i < 1 || i == len(s)-1 || len(s) > 1000 || strings.ContainsAny(s, " \t\r\n<>,") && s[0] != '"' {
		return fmt.Errorf("%q is not an address; remedy: write it like \"name@example.com\"", s)
	}
	return nil
}

type suppressRemove struct {
	Addresses []string `arg:"" name:"address" help:"Addresses."`
	Stream    *string  `placeholder:"NAME" help:"Only in this stream; \"\" for what is suppressed in all. Default: wherever it stands."`
	hereFlag
}

func (c *suppressRemove) Run(ctx context.Context, g *globals) error {
	client, err := g.clientFor(c.Here)
	if err != nil {
		return err
	}
	n, err := client.Unsuppress(ctx, control.SuppressionRemoval{Addresses: c.Addresses, Stream: c.Stream})
	if err != nil {
		return err
	}
	printable.Fprintln(os.Stdout, entries(n), "removed")
	if err := g.spread(ctx, client, c.Here, "removed"); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("none of these addresses is on the list")
	}
	return nil
}

type suppressImport struct {
	File   string `arg:"" help:"A file, or - for standard input."`
	Stream string `placeholder:"NAME" help:"The stream of addresses that have none in the file. Default: all streams."`
	hereFlag
}

func (c *suppressImport) Help() string {
	return `Reads one address a line (# begins a comment), or CSV with a first line that names
the columns: address, and if you like stream, last (RFC 3339), bounces, class and
late, as millrace suppress export writes them. Entries without a class stay until they
are removed, as those of millrace suppress add do. A million takes some seconds.
After an error, what stands before that line is on the list; to import it again
does no harm.`
}

func (c *suppressImport) Run(ctx context.Context, g *globals) error {
	in, name := io.Reader(os.Stdin), "standard input"
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in, name = f, c.File
	}
	return g.suppress(ctx, c.Here, readList(in, name, c.Stream))
}

// listColumns are those of a list in CSV; wasLate stands in the last one, or nothing.
func listColumns() []string { return []string{"address", "stream", "last", "bounces", "class", "late"} }

const wasLate = "late"

// readList reads a list in either form, entry by entry. Errors name file and line.
func readList(in io.Reader, name, stream string) func(*control.Suppression) error {
	r := csv.NewReader(bufio.NewReaderSize(in, 1<<16))
	r.Comment, r.FieldsPerRecord, r.ReuseRecord, r.LazyQuotes = '#', -1, true, true
	var place map[string]int // of the columns; nil: there is only the address
	first := true
	return func(s *control.Suppression) error {
		for {
			record, err := r.Read()
			if err != nil {
				return err // io.EOF too
			}
			line, _ := r.FieldPos(0)
			fail := func(err error) error { return fmt.Errorf("%s:%d: %w", name, line, err) }
			if first {
				first = false
				if place, err = listHeader(record); err != nil {
					return fail(err)
				}
				if place != nil {
					continue
				}
			}
			field := func(column string) string {
				i, ok := place[column]
				if place == nil {
					i, ok = 0, column == "address"
				}
				if !ok || i >= len(record) {
					return ""
				}
				return strings.TrimSpace(record[i])
			}
			*s = control.Suppression{Address: field("address"), Stream: field("stream"), Class: field("class")}
			if s.Stream == "" {
				s.Stream = stream
			}
			if err := checkAddress(s.Address); err != nil {
				return fail(err)
			}
			if v := field("last"); v != "" {
				if s.Last, err = time.Parse(time.RFC3339, v); err != nil {
					return fail(fmt.Errorf("last: %q is not a time; remedy: write it like %q", v, "2026-11-24T12:00:00Z"))
				}
			}
			if v := field("late"); v != "" && v != wasLate {
				return fail(fmt.Errorf("late: %q; remedy: write %q if the last bounce came in a report, or nothing", v, wasLate))
			}
			s.Late = field("late") != ""
			if v := field("bounces"); v != "" {
				if s.Bounces, err = strconv.Atoi(v); err != nil || s.Bounces < 0 {
					return fail(fmt.Errorf("bounces: %q is not a number", v))
				}
			}
			return nil
		}
	}
}

// listHeader reads the names of columns; it returns nil if the line is an address.
func listHeader(record []string) (map[string]int, error) {
	if strings.Contains(record[0], "@") {
		return nil, nil
	}
	place := map[string]int{}
	for i, name := range record {
		place[strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))] = i
	}
	if _, ok := place["address"]; !ok {
		return nil, fmt.Errorf("%q is neither an address nor the names of columns; remedy: name them: %s", strings.Join(record, ","), strings.Join(listColumns(), ","))
	}
	return place, nil
}

type suppressExport struct {
	Stream *string `placeholder:"NAME" help:"Only this stream's; \"\" for what is suppressed in all."`
}

func (c *suppressExport) Help() string {
	return `Writes CSV with the columns address, stream (empty: all), last (time of the last
bounce), bounces, class ("none": added by an admin) and late ("late": that bounce or
complaint came in a report, and a delivery does not clear it), also of what has bounced
and is not suppressed yet. millrace suppress import reads it.`
}

func (c *suppressExport) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	out := csv.NewWriter(bufio.NewWriterSize(os.Stdout, 1<<16))
	if err := out.Write(listColumns()); err != nil {
		return err
	}
	err = client.Suppressions(ctx, func(s *control.Suppression) error {
		if c.Stream != nil && *c.Stream != s.Stream {
			return nil
		}
		late := ""
		if s.Late {
			late = wasLate
		}
		return out.Write([]string{printable.String(s.Address), printable.String(s.Stream), s.Last.UTC().Format(time.RFC3339), strconv.Itoa(s.Bounces), printable.String(s.Class), late})
	})
	out.Flush()
	return errors.Join(err, out.Error())
}

type suppressStats struct {
	JSON bool `name:"json" help:"One JSON object."`
}

func (c *suppressStats) Run(ctx context.Context, g *globals) error {
	client, err := g.client()
	if err != nil {
		return err
	}
	st, err := client.SuppressionStats(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(printable.NewJSON(os.Stdout)).Encode(st)
	}
	printable.Fprintf(os.Stdout, "mode        %s\nsuppressed  %d, %d of them by an admin\ncounted     %d more have bounced\non disk     %d octets\n",
		st.Mode, st.Suppressed, st.Admin, st.Counted, st.Octets)
	return nil
}
