package main

import (
	"maps"

	"github.com/millrace/millrace/contrib/lab"
)

// comparison is a figure of Postfix and of Millrace beside it, for README's
// table; each is formatted, the spread with it.
type comparison struct {
	What    string `json:"what"`
	Default string `json:"default"`
	Tuned   string `json:"tuned"`
	With    string `json:"millrace"`
}

// The names of the variants that most scenarios compare.
const (
	asShipped = "Postfix default"
	asTuned   = "Postfix tuned"
	beside    = "with Millrace"
)

// aboutVariants goes before all scenarios.
const aboutVariants = "*" + asShipped + "* is Postfix as Debian ships it. *" + asTuned + "* is what an expert makes of it for bulk mail: " +
	"`default_process_limit = 1000`, `default_destination_concurrency_limit = 100`, " +
	"`default_destination_concurrency_failed_cohort_limit = 10` (a receiver that refuses some connections is not given up at once), " +
	"`minimal_backoff_time` and `queue_run_delay` of 60 s instead of 300 s, `smtp_connect_timeout = 5s` and `smtp_helo_timeout = 30s` " +
	"instead of 30 s and 300 s, a larger active queue and no `in_flow_delay`. *" + beside + "* is Postfix default with Millrace " +
	"beside it, which has its defaults too, except where a scenario says otherwise."

// tuned is that expert's Postfix.
func tuned(more map[string]string) *lab.PostfixOptions {
	params := map[string]string{
		"default_process_limit":                               "1000",
		"default_destination_concurrency_limit":               "100",
		"default_destination_concurrency_failed_cohort_limit": "10",
		"minimal_backoff_time":                                "60s",
		"queue_run_delay":                                     "60s",
		"smtp_connect_timeout":                                "5s",
		"smtp_helo_timeout":                                   "30s",
		"qmgr_message_active_limit":                           "50000",
		"qmgr_message_recipient_limit":                        "50000",
		"in_flow_delay":                                       "0",
	}
	maps.Copy(params, more)
	return &lab.PostfixOptions{Extra: params}
}

// contender is a variant's name and the world that it runs in.
type contender struct {
	name string
	world
}

// contenders are the three that most scenarios compare.
func contenders(w world) []contender {
	shipped, expert, ours := w, w, w
	shipped.postfix = &lab.PostfixOptions{}
	expert.postfix = tuned(nil)
	ours.postfix, ours.millrace = &lab.PostfixOptions{}, &lab.MillraceOptions{}
	return []contender{{asShipped, shipped}, {asTuned, expert}, {beside, ours}}
}

// compare takes a figure of those three, which are the first of found.
func compare[T any](what string, found [][]T, cell func([]T) string) comparison {
	return comparison{what, cell(found[0]), cell(found[1]), cell(found[2])}
}
