package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/smtp"
)

// ToHost gives the host MTA a message of this host's own: at the port where mail comes back,
// which asks no milter of ours, so that no rule diverts it. The sender is null, as that of
// reports: nobody is told when it cannot be delivered. The content has CRLF lines.
func ToHost(ctx context.Context, c *config.Config, to string, content []byte) error {
	o := smtp.Options{Hello: c.Hostname, TLS: smtp.None, Socket: config.RelaySocket(c.Handback.Relay)}
	var at netip.AddrPort
	if o.Socket == "" {
		a, err := new(net.Resolver).LookupNetIP(ctx, "ip", hostOf(c.Handback.Relay))
		if err != nil {
			return fmt.Errorf("[handback] relay: %w", err)
		}
		port, err := net.DefaultResolver.LookupPort(ctx, "tcp", portOf(c.Handback.Relay))
		if err != nil {
			return fmt.Errorf("[handback] relay: %w", err)
		}
		at = netip.AddrPortFrom(a[0].Unmap(), uint16(port))
	}
	conn, err := smtp.Dial(ctx, at, o)
	if err != nil {
		return fmt.Errorf("the host's MTA at %s: %w", c.Handback.Relay, err)
	}
	defer conn.Quit(ctx)
	eight := bytes.ContainsFunc(content, func(r rune) bool { return r > 127 })
	result, err := conn.Send(ctx, &smtp.Tx{Recipients: []smtp.Rcpt{{Address: to}}, Size: int64(len(content)), EightBit: eight, Content: bytes.NewReader(content)})
	if err == nil {
		switch r := result.Recipients[0]; {
		case r.Err != nil:
			err = r.Err
		case r.Fate != smtp.Accepted:
			err = errors.New(printableReply(r.Reply))
		}
	}
	if err != nil {
		return fmt.Errorf("the host's MTA at %s did not take it: %w", c.Handback.Relay, err)
	}
	return nil
}

func hostOf(relay string) string { host, _, _ := net.SplitHostPort(relay); return host }
func portOf(relay string) string { _, port, _ := net.SplitHostPort(relay); return port }

func printableReply(r smtp.Reply) string { return fmt.Sprintf("%d %s%s", r.Code, r.Enhanced, r.Text) }
