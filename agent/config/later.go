package config

// later adds a notice for each value that is accepted and checked, but that
// this version does not act on yet.
func (l *loader) later() {
	if path := "agent.http.listen"; l.given(path) && l.cfg.Agent.HTTP.Listen != "" {
		n := l.place(path)
		n.Text = "serves /metrics, /healthz and /readyz only; the status page comes in a later version"
		l.notices = append(l.notices, n)
	}
}
