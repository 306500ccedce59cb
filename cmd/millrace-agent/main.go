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

SIGHUP reloads the configuration; SIGTERM lets transactions in flight finish and stops.

A stop waits up to 70 seconds for receivers that think about a message. What is cut then is
sent again at the next start, and may arrive twice: one message for each connection at most,
to all its recipients in one domain. So may what was in flight, or had its answer within the
last tenth of a second, when the host loses power; and what was in flight after kill -9.
Nothing else is repeated by a restart, and nothing lost.`,
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
