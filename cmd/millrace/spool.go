package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// spoolCmd looks into the spool directory itself. It needs no agent, and does
// not disturb one: it takes no locks and writes nothing.
type spoolCmd struct {
	Directory string `short:"d" placeholder:"DIR" help:"Spool directory. Default: that of the configuration."`

	Ls     spoolLs     `cmd:"" help:"List the messages, one line each."`
	Cat    spoolCat    `cmd:"" help:"Print a message with its envelope, as postcat does."`
	Verify spoolVerify `cmd:"" help:"Compare every checksum; exit code 1 if one is wrong."`
	Stats  spoolStats  `cmd:"" help:"Count messages, recipients, and octets."`
}

func (c *spoolCmd) Help() string {
	return `Reads the spool directory, whether or not the daemons run. What it shows of a
spool in use is a moment old. It takes the rights of the spool's user, or root.

Examples:
  millrace spool ls
  millrace spool stats
  millrace spool cat M1A-3F0040
  millrace spool verify -d /mnt/backup/millrace`
}

func (c *spoolCmd) dir(g *globals) (string, error) {
	if c.Directory != "" {
		return c.Directory, nil
	}
	cfg, _, err := g.Load()
	if err != nil {
		return "", err
	}
	return cfg.Spool.Directory, nil
}

func (c *spoolCmd) open(g *globals) (*spool.Reader, error) {
	dir, err := c.dir(g)
	if err != nil {
		return nil, err
	}
	return spool.OpenReader(dir)
}

type spoolLs struct {
	All bool `short:"a" help:"Also messages that are done and not yet reclaimed."`
}

func (c *spoolLs) Help() string {
	return `Columns: id, size in octets, arrival, number of recipients, their states, sender,
stream, queue id at the host MTA.`
}

func (c *spoolLs) Run(s *spoolCmd, g *globals) error {
	r, err := s.open(g)
	if err != nil {
		return err
	}
	defer r.Close()
	out := bufio.NewWriter(os.Stdout)
	return errors.Join(c.list(out, r), out.Flush())
}

func (c *spoolLs) list(out io.Writer, r *spool.Reader) error {
	return r.Messages(func(m *spool.Message) error {
		if m.Done && !c.All {
			return nil
		}
		e := m.Envelope
		if e == nil {
			_, err := printable.Fprintf(out, "%-17s %9s %-19s %5s %s\n", m.ID, "-", "-", "-", "damaged")
			return err
		}
		_, err := printable.Fprintf(out, "%-17s %9d %s %5d %-20s %s %s %s\n", m.ID, e.Size,
			e.Arrived.Format("2006-01-02 15:04:05"), len(e.Recipients), summary(m),
			or(e.Sender, "<>"), or(e.Stream, "-"), or(e.QueueID, "-"))
		return err
	})
}

// summary counts the states of a message's recipients: "2 queued,1 delivered".
func summary(m *spool.Message) string {
	if m.Verdict == spool.Pending || m.Verdict == spool.Voided {
		return string(m.Verdict)
	}
	var order []string
	count := make(map[string]int)
	for _, st := range m.States {
		name := stateName(&st)
		if count[name]++; count[name] == 1 {
			order = append(order, name)
		}
	}
	for i, name := range order {
		order[i] = fmt.Sprintf("%d %s", count[name], name)
	}
	return strings.Join(order, ",")
}

// stateName is the status, with what was tried told from what was not.
func stateName(st *spool.State) string {
	switch {
	case st.Status != spool.Queued:
		return st.Status.String()
	case st.Held:
		return "held"
	case st.Stuck:
		return "stuck"
	case st.Handback:
		return "handing-back"
	case st.Tries > 0 || !st.Due.IsZero():
		return "deferred"
	}
	return st.Status.String()
}

func or(s, empty string) string {
	if s == "" {
		return empty
	}
	return s
}

type spoolVerify struct{}

func (c *spoolVerify) Help() string {
	return `Reads everything, contents too, and prints each fault as FILE:OFFSET: WHAT.
Nothing is repaired. The agent keeps segments with damage in place.`
}

func (c *spoolVerify) Run(s *spoolCmd, g *globals) error {
	dir, err := s.dir(g)
	if err != nil {
		return err
	}
	return c.verify(os.Stdout, dir)
}

func (c *spoolVerify) verify(out io.Writer, dir string) error {
	faults := 0
	done, err := spool.Verify(dir, func(f spool.Fault) {
		faults++
		printable.Fprintln(out, f)
	})
	if err != nil {
		return err
	}
	printable.Fprintf(out, "%d segments, %d messages, %d octets of content read, %d faults\n",
		done.Segments, done.Messages, done.Octets, faults)
	if faults > 0 {
		return fmt.Errorf("%s: %d faults", dir, faults)
	}
	return nil
}

type spoolStats struct{}

func (c *spoolStats) Run(s *spoolCmd, g *globals) error {
	r, err := s.open(g)
	if err != nil {
		return err
	}
	defer r.Close()
	return c.print(os.Stdout, r)
}

func (c *spoolStats) print(out io.Writer, r *spool.Reader) error {
	st, err := r.Stats()
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	line := func(name string, n int64) { printable.Fprintf(w, "%-26s %14d\n", name, n) }
	line("messages", st.Messages)
	line("  without a verdict", st.Pending)
	line("  done, not yet reclaimed", st.Done)
	line("recipients queued", st.Recipients[spool.Queued])
	line("  of these deferred", st.Deferred)
	for status := spool.Delivered; status <= spool.Damaged; status++ {
		line("recipients "+status.String(), st.Recipients[status])
	}
	line("damaged", st.Damaged)
	line("segments", int64(st.Segments))
	line("  octets of records", st.SegmentOctets)
	line("  live", st.Live)
	line("  dead", st.Dead)
	line("  holes", st.Holes)
	line("files of large messages", int64(st.Blobs))
	line("  octets", st.BlobOctets)
	line("journal files", int64(st.JournalFiles))
	line("  octets", st.JournalOctets)
	return w.Flush()
}
