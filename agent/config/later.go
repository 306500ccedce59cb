package config

import "fmt"

// later adds a notice for each value that is accepted and checked, but that
// this version does not act on yet.
func (l *loader) later() {
	note := func(path, text string) {
		if l.given(path) {
			n := l.place(path)
			n.Text = text
			l.notices = append(l.notices, n)
		}
	}
	if l.cfg.Agent.HTTP.Listen != "" {
		note("agent.http.listen", "listen takes effect in a later version: there are no metrics and no status page yet")
	}
	if n := len(l.cfg.Agent.SourceAddresses); n > 1 {
		note("agent.source_addresses", fmt.Sprintf("source_addresses takes effect in a later version as a pool: only %s is used yet", l.cfg.Agent.SourceAddresses[0]))
	}
}
