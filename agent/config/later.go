package config

// later adds a notice for each value that is accepted and checked, but that
// this version does not act on yet.
func (l *loader) later() {
	if path := "agent.http.listen"; l.given(path) && l.cfg.Agent.HTTP.Listen != "" {
		n := l.place(path)
		n.Text = "listen takes effect in a later version: there are no metrics and no status page yet"
		l.notices = append(l.notices, n)
	}
}
