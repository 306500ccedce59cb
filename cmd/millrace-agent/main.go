// Millrace-agent is the transport agent: it takes the diverted mail out of the
// spool and delivers it over parallel SMTP sessions, destination by destination.
package main

import (
	"log/slog"

	"github.com/millrace/millrace/agent"
	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/cmd/internal/program"
)

func main() {
	program.Serve("millrace-agent", `Delivers the mail that millrace-milter diverted into the spool.

SIGHUP reloads the configuration; SIGTERM lets transactions in flight finish and stops.`,
		func(c *config.Config, log *slog.Logger, reload func() error) (program.Daemon, error) {
			a, err := agent.New(c, log, program.Version())
			if err != nil {
				return nil, err
			}
			a.ReloadBy(reload)
			return a, nil
		})
}

var _ program.Prober = (*agent.Agent)(nil)
