package agent

import "github.com/millrace/millrace/agent/spool"

// known says whether all recipients of a message took mail from this host before, as far as
// outcomes are kept. Nobody asks where no address warms up. It never waits.
func (a *Agent) known(e *spool.Envelope) bool {
	if !a.warmup.Any() {
		return false
	}
	for i := range e.Recipients {
		if !a.outcomes.Took(e.Recipients[i].Address) {
			return false
		}
	}
	return true
}
