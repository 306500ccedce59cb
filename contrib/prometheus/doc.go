// Package prometheus has no code of its own. Beside it are the alert rules for Millrace
// (millrace.rules.yml) and their unit tests (millrace.rules.test.yml, for promtool test
// rules); contrib/grafana has a dashboard. The Go tests hold all of them against the
// metrics that the agent really exposes, with promtool, which make deps brings.
package prometheus
