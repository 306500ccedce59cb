package main

import (
	"context"
	"crypto/rand"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/address"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/daily"
	"github.com/millrace/millrace/agent/deliver"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// daily prints the report of a day, or mails it.
func (c *reportCmd) daily(ctx context.Context, g *globals, now time.Time) error {
	if c.Since != "" || c.Until != "" || c.JSON || len(c.Files) > 0 {
		return program.Usage("--mail and --day are about a whole day, from the agent's counts: they take no --since, --until, --json and no file")
	}
	day := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	if c.Day != nil {
		var err error
		if day, err = time.Parse(time.DateOnly, *c.Day); err != nil {
			return program.Usage("--day: %q is no day; remedy: write it like \"2026-03-02\"", *c.Day)
		}
		if day.After(now) {
			return program.Usage("--day: %s has not begun in UTC", *c.Day)
		}
	}
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	to := ""
	if c.Mail != nil {
		to = *c.Mail
		whole := to
		if !strings.Contains(to, "@") {
			whole += "@host.invalid" // the host's MTA adds its own domain
		}
		if !address.International(whole) {
			return program.Usage("--mail: %q is not an address; remedy: write it like \"name@example.com\"", *c.Mail)
		}
	}
	r := daily.Ask(ctx, control.NewClient(cfg.Agent.Control), day, now)
	r.Hostname = cfg.Hostname
	if to == "" {
		_, err = printable.Fprintf(os.Stdout, "%s", printable.Block(r.Text()))
		return err
	}
	return deliver.ToHost(ctx, cfg, to, dayMail(to, r))
}

// dayMail is the report as a message. Auto-Submitted is as RFC 3834 5 has it for what no
// message asked for.
func dayMail(to string, r *daily.Report) []byte {
	var b strings.Builder
	for _, f := range [][2]string{
		{"Date", r.Now.Format(time.RFC1123Z)},
		{"From", "MAILER-DAEMON@" + r.Hostname + " (Millrace)"},
		{"To", "<" + to + ">"},
		{"Subject", r.Subject()},
		{"Message-Id", "<" + strings.ToLower(rand.Text()) + "@" + r.Hostname + ">"},
		{"Auto-Submitted", "auto-generated"},
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "8bit"},
	} {
		b.WriteString(f[0] + ": " + f[1] + "\r\n")
	}
	b.WriteString("\r\n")
	for line := range strings.Lines(r.Text()) {
		b.WriteString(strings.TrimRight(line, "\n") + "\r\n")
	}
	return []byte(b.String())
}
