package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/daily"
	"github.com/millrace/millrace/agent/deliver"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// daily prints the report of a day, or mails it.
func (c *reportCmd) daily(ctx context.Context, g *globals, now time.Time) error {
	usage := func(format string, args ...any) error {
		return program.Error{Code: program.ExitUsage, Err: fmt.Errorf(format, args...)}
	}
	if c.Since != "" || c.Until != "" || c.JSON || len(c.Files) > 0 {
		return usage("--mail and --day are about a whole day, from the agent's counts: they take no --since, --until, --json and no file")
	}
	day := now.UTC().Truncate(24*time.Hour).AddDate(0, 0, -1)
	if c.Day != "" {
		var err error
		if day, err = time.Parse(time.DateOnly, c.Day); err != nil {
			return usage("--day: %q is no day; remedy: write it like \"2026-03-02\"", c.Day)
		}
	}
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	to := c.Mail
	if to != "" {
		if !strings.Contains(to, "@") {
			to += "@" + cfg.Hostname
		}
		if err := checkAddress(to); err != nil {
			return err
		}
	}
	r := dayReport(ctx, cfg, control.NewClient(cfg.Agent.Control), day, now)
	if to == "" {
		_, err = printable.Fprintf(os.Stdout, "%s", printable.Block(r.Text()))
		return err
	}
	return deliver.ToHost(ctx, cfg, to, dayMail(cfg.Hostname, to, r, now))
}

// dayReport asks for all that the report has. What is not to be had it tells.
func dayReport(ctx context.Context, cfg *config.Config, client *control.Client, day, now time.Time) *daily.Report {
	r := &daily.Report{Hostname: cfg.Hostname, Day: day, Now: now}
	r.Counts, r.CountsErr = client.Day(ctx, day)
	r.Before, r.BeforeErr = client.Day(ctx, day.AddDate(0, 0, -7))
	if r.Status, r.NowErr = client.Status(ctx); r.NowErr == nil {
		var standing control.StandingOrders
		standing, r.NowErr = client.Standing(ctx)
		r.Standing = &standing
	}
	return r
}

// dayMail is the report as a message. Auto-Submitted is as RFC 3834 5 has it for what no
// message asked for.
func dayMail(hostname, to string, r *daily.Report, now time.Time) []byte {
	var b strings.Builder
	for _, f := range [][2]string{
		{"Date", now.Format(time.RFC1123Z)},
		{"From", "MAILER-DAEMON@" + hostname + " (Millrace)"},
		{"To", "<" + to + ">"},
		{"Subject", r.Subject()},
		{"Message-Id", "<" + strings.ToLower(rand.Text()) + "@" + hostname + ">"},
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
