package main

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"strings"

	"github.com/millrace/millrace/packaging/man/roff"
)

// events writes millrace-events(5): the event file as the package comment of agent/event
// has it, and the databases of [outcomes].
func events(source string) ([]byte, error) {
	f, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		return nil, err
	}
	_, text, ok := strings.Cut(f.Doc.Text(), "# The event file\n")
	if !ok {
		return nil, fmt.Errorf("%s: the package comment has no part about the event file", source)
	}
	var b bytes.Buffer
	w := roff.Writer{Out: &b}
	w.Title("millrace-events", 5)
	w.Head("NAME")
	w.Text("millrace-events - what Millrace tells programs of each delivery")
	w.Head("DESCRIPTION")
	w.Text(`Every final outcome and every deferral is an event. [events] file has them as lines of JSON, for programs that follow along; [outcomes] keeps them in SQLite databases, for questions later: millrace history asks them, and so may you; a [[webhook]] has them posted to your own programs.

A program that rotates [events] file renames it and has millrace-agent reload (SIGHUP); nothing is lost. To copy and truncate it, as logrotate's copytruncate does, loses what is written between the two.`)
	w.Head("THE EVENT FILE")
	w.Text(strings.TrimLeft(text, "\n"))
	w.Head("WEBHOOKS")
	w.Text(`A [[webhook]] of form "millrace" gets POST requests with a JSON object, as Standard Webhooks (standardwebhooks.com) recommends: type "millrace.events", or "millrace.test" of millrace webhook test; timestamp, of the first event; and data, with host (hostname of the configuration), webhook (its name) and events, 1 to 100 of them. An event has event_id and the fields of the event file, without sender, arrived, size, pool, conn_use and the delays; an event "gap" has time, until and lost. A reply is cut after 2048 octets.

webhook-id, a header, is an id of the body: the same at each try, and of no other body. event_id stays the same over tries, restarts and replays. Events come at least once: keep the ids that you have seen, of a day at least. They come in the order in which they became final, one request at a time. What a kill -9 of the agent finds in memory does not come, nor does anything count it: a tenth of a second of events. webhook-timestamp is the time of the try, webhook-signature is there if [[webhook]] secret is: "v1," and the base64 of HMAC-SHA256 over webhook-id, ".", webhook-timestamp, "." and the body.

Any 2xx says that the events are taken; answer within 30 seconds. 4xx other than 408, 425 and 429 refuses: several events are posted in halves then, one alone five times, until it is set aside. Everything else has the same request come again, after half a second at first and ten minutes at most, not before Retry-After says, up to an hour. Redirects are not followed.

Form "listmonk" is one bounce a request: email, campaign_uuid (a stream that is a UUID), source "millrace", type (hard, soft, complaint), created_at, and meta, a JSON object as text with event_id, event, id, qid, stream, class, dsn, reply, feedback_type. listmonk knows no ids: what a crash repeats, one event, it counts twice. A complaint or late bounce that does not count for suppression is not posted, nor is what becomes of reports.

Events wait in state_directory/webhooks, apart from those of [outcomes]: only what a webhook asks for, with addresses as they are.`)
	w.Head("THE DATABASES")
	w.Text(`They lie in state_directory/outcomes, for root and the agent's user:

  outcomes-2026-11-28.db   the attempts of a day (UTC): [outcomes] keep
  totals.db                counts without addresses: [outcomes] keep_totals
  key                      of the hashes of recipients
  *.damaged                was set aside, and begun anew

sqlite3(1) reads them while the agent runs:

  sqlite3 -readonly /var/lib/millrace/outcomes/outcomes-2026-11-28.db \
    "SELECT time, event, reply FROM outcomes WHERE recipient = 'a@example.com'"

The agent writes once a second. Do not leave a transaction open: while one reads, the file -wal beside the database grows, /readyz warns, and at 256 MiB the agent waits. Do not write. A file that is removed while the agent has it open is begun anew from its own log of events, two days or 256 MiB of them, as one that is damaged is; /readyz tells that for an hour. New columns may be added; user_version grows if one goes or changes its meaning.`)
	w.Sub("outcomes, a view")
	w.Text("One row for each event, with the names and values of the event file: time, event, id, ordinal, qid, recipient, stream, domain, queue, site, relay, tries, class, hard, rule, code, dsn, reply, due, source, and report, 1 for a report of Millrace's own. An event \"gap\" stands where events were lost; its reply says how many.")
	w.Sub("attempts and kinds")
	w.Text(`The tables behind it. attempts: id, in the order they were written; time and due in milliseconds since 1970; message, the id of the message as a number (segment << 32 | offset); ordinal of the recipient; qid; recipient, a text, or a number (recipients = "hashed"), or NULL; tries; words, the part of the reply that is this one's; kind, a row of kinds.

kinds: id, and what many attempts have in common: event, class, hard, code, dsn, rule, stream, domain, queue, site, relay, report, and the reply around the words, before and after.

sources: kind, and the address that attempts of that kind came from.

A hashed recipient is the first 64 bits of HMAC-SHA256 over the address in lower case, with the key in the file "key"; its last bit is 1.`)
	w.Sub("keys, runs, cursor")
	w.Text(`How millrace history finds an attempt, and how far the file is filled. A run is a range of attempts, first to last, with messages from low to high; keys has for each run the sorted hashes of its recipients and queue ids, from the hash "first" on, as a list of 8 octets each. cursor (one, segment, offset, seq) is the place in the agent's own log of events that comes next; it changes in one transaction with the rows.`)
	w.Sub("totals, in totals.db")
	w.Text(`n events of one stream, queue, site, event and class, in the width seconds from start (since 1970) on: of 300 seconds for two days, of 3600 for 35 days, then of 86400. Of more than 500 combinations in five minutes the rest is counted under the stream and site "other". Reports that came back and do not count have the class "uncounted" here. Names of streams have no local parts of addresses.`)
	w.Head("FORGETTING")
	w.Text("millrace forget ADDRESS erases an address from the databases, and from the agent's own logs of events in state_directory/events and state_directory/webhooks. [events] file is yours.")
	w.Head("SEE ALSO")
	w.Text("millrace(1), millrace.toml(5), sqlite3(1)")
	return b.Bytes(), nil
}
