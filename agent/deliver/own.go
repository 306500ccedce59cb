package deliver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/smtp"
)

// ToHost gives the host MTA a message of this host's own: at the port where mail comes back,
// which asks no milter of ours, so that no rule diverts it. The sender is null, as that of
// reports: nobody is told when it cannot be delivered. To a name without a domain the host adds
// its own. The content has CRLF lines.
func ToHost(ctx context.Context, c *config.Config, to string, content []byte) error {
	relay := c.Handback.Relay
	o := smtp.Options{Hello: c.Hostname, TLS: smtp.None, Socket: config.RelaySocket(relay)}
	if o.Socket == "" {
		// Each address of the name is tried.
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, relay)
		}
	}
	conn, err := smtp.Dial(ctx, netip.AddrPort{}, o)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; remedy: become root, or a member of the socket's group", err)
	}
	if err != nil {
		return fmt.Errorf("the host's MTA at %s: %w", relay, err)
	}
	defer conn.Quit(ctx)
	result, err := conn.Send(ctx, &smtp.Tx{
		AsTaken: true, Recipients: []smtp.Rcpt{{Address: to}}, Size: int64(len(content)), Content: bytes.NewReader(content),
		EightBit: bytes.ContainsFunc(content, func(r rune) bool { return r > 127 }),
	})
	if err == nil {
		if r := result.Recipients[0]; r.Fate != smtp.Accepted {
			err = r.Err
			if err == nil {
				err = errors.New(r.Reply.String())
			}
		}
	}
	if err != nil {
		return fmt.Errorf("the host's MTA at %s did not take it: %w", relay, err)
	}
	return nil
}
