// Package prometheus has no code of its own. Beside it are the alert rules for
// Millrace (millrace.rules.yml), what they should do (millrace.rules.test.yml, for
// promtool test rules), and, in contrib/grafana, a dashboard. Its tests hold all of
// them against what the agent really exposes, with promtool, which make deps brings.
package prometheus
