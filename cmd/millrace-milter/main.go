// Command millrace-milter takes bulk mail out of the host MTA: it speaks the
// milter protocol to Postfix or Sendmail, decides what is bulk, and commits that
// to the spool that millrace-agent sends from.
//
// SIGHUP reloads the configuration; a bad file leaves the old one running.
// SIGTERM and SIGINT stop it: sessions finish the message in hand first. The
// exit status is 78 (EX_CONFIG) if the configuration cannot be used.
package main

import (
	"log/slog"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/cmd/internal/program"
)

func main() {
	program.Serve("millrace-milter", "Takes bulk mail out of the host MTA, as its milter.",
		func(c *config.Config, log *slog.Logger, _ func() error) (program.Daemon, error) {
			return newDiverter(c, log)
		})
}
