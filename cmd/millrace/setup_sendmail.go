package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/printable"
	snippets "github.com/millrace/millrace/contrib/sendmail"
)

// sendmailCF is the running configuration of Sendmail.
const sendmailCF = "/etc/mail/sendmail.cf"

// sendmail shows the lines for sendmail.mc, and compares the running configuration.
// m4 text of an admin's is not edited: it is a program.
func (c *setupCmd) sendmail(g *globals) error {
	cfg, _, err := g.Load()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(sendmailCF)
	if err != nil {
		return fmt.Errorf("the configuration of Sendmail cannot be read: %w", err)
	}
	missing := sendmailLacks(string(text), cfg)
	if len(missing) == 0 {
		printable.Fprintln(os.Stdout, "sendmail.cf has what Millrace needs; see millrace check for the rest")
		return nil
	}
	for _, m := range missing {
		printable.Fprintln(os.Stderr, "millrace: sendmail.cf: "+m)
	}
	printable.Fprintf(os.Stdout, "%s", printable.Block("Write this into /etc/mail/sendmail.mc, then: make -C /etc/mail, and restart Sendmail.\n\n"+snippets.MC))
	return errors.New("the running Sendmail does not ask Millrace yet")
}

var (
	filterLine = regexp.MustCompile(`(?m)^Xmillrace,\s*(.*)$`)
	filterList = regexp.MustCompile(`(?m)^O InputMailFilters=(.*)$`)
	daemonLine = regexp.MustCompile(`(?m)^O DaemonPortOptions=(.*)$`)
)

// sendmailLacks says what a sendmail.cf lacks.
func sendmailLacks(cf string, c *config.Config) (missing []string) {
	filter := filterLine.FindStringSubmatch(cf)
	if filter == nil {
		missing = append(missing, "no filter millrace (INPUT_MAIL_FILTER)")
	} else {
		named := false
		for _, l := range c.Milter.Listen {
			if network, at, err := config.ParseListen(l); err == nil && network == "unix" {
				named = named || strings.Contains(filter[1], "S=local:"+at) || strings.Contains(filter[1], "S=unix:"+at)
			} else if err == nil {
				_, port, _ := strings.Cut(at, ":")
				named = named || strings.Contains(filter[1], "S=inet:"+port)
			}
		}
		if !named {
			missing = append(missing, fmt.Sprintf("the filter millrace is %q, and [milter] listen %s", filter[1], strings.Join(c.Milter.Listen, ", ")))
		}
		if strings.Contains(filter[1], "F=") {
			missing = append(missing, "the filter millrace has F=: mail is refused while Millrace is down; leave it out")
		}
	}
	if l := filterList.FindStringSubmatch(cf); filter != nil {
		names := []string{}
		if l != nil {
			names = strings.FieldsFunc(l[1], func(r rune) bool { return r == ',' || r == ' ' })
		}
		if len(names) == 0 || names[len(names)-1] != "millrace" {
			missing = append(missing, "millrace is not the last of InputMailFilters")
		}
	}
	if config.RelaySocket(c.Handback.Relay) != "" {
		return append(missing, fmt.Sprintf("[handback] relay is %s, and Sendmail takes mail at ports only: write relay = \"127.0.0.1:10626\"", c.Handback.Relay))
	}
	_, port, _ := strings.Cut(c.Handback.Relay, ":")
	back := false
	for _, d := range daemonLine.FindAllStringSubmatch(cf, -1) {
		if strings.Contains(d[1], "Port="+port) {
			back = true
			if !strings.Contains(d[1], "InputMailFilters=") {
				missing = append(missing, "the hand-back port has filters: it needs an empty InputMailFilters=")
			}
		}
	}
	if !back {
		missing = append(missing, "no daemon on the hand-back port "+port)
	}
	return missing
}
