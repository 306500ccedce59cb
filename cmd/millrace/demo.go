package main

import (
	"context"
	"os"
	"time"

	"github.com/millrace/millrace/contrib/demo"
	"github.com/millrace/millrace/contrib/lab"
)

// demoCmd runs contrib/demo.
type demoCmd struct {
	Messages    int           `default:"5000" help:"How many messages, a tenth of them transactional."`
	Connections int           `default:"20" help:"Over how many connections they are injected."`
	Timeout     time.Duration `default:"5m" help:"Give up after this long."`
}

func (c *demoCmd) Help() string {
	return `Needs root and Debian's postfix package; no configuration. It runs in network
and mount namespaces of its own: nothing can leave the machine, and neither
/etc/postfix nor a running Postfix is touched. Everything it makes is removed
at the end. The exit code is 0 only if nothing was lost, doubled or altered.

Example:
  millrace demo --messages 20000`
}

func (c *demoCmd) Run(ctx context.Context) error {
	if err := lab.Isolate(); err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{
		Messages: c.Messages, Connections: c.Connections, Timeout: c.Timeout, Out: os.Stdout,
	})
}
