// Package agent is the transport agent: it takes mail out of the spool, where the milter
// put it, and delivers it, destination by destination. New builds an Agent, Run
// works until its context ends and lets transactions in flight finish, Reload puts a new
// configuration into force. The package owns the order in which things start and stop
// (agent.go), the look-ups of routes (lookups.go, resolve.go), and what is done each second and each
// minute (upkeep.go); everything else belongs to the packages below it. This page is the map of
// them.
//
// # The packages
//
//	agent                     start, stop, reload; routes, upkeep
//	  admin                   what admins may do and see: verbs, listings
//	    watch                 what is seen: /readyz, /metrics, the page, the host MTA
//	      deliver             a session's life: connect, send, read the replies
//	        assess            what reports that came back count for
//	        orders            what admins and rules have ordered, and what lasts
//	          settle          where outcomes become final: report, journal, publish
//	            settings      the configuration in the terms of those below
//
// Imports go downwards only; imports_test.go has all layers and says so. deliver and
// watch do not know each other, nor do assess, orders and settle. Below them are packages for one
// thing each:
//
//	queue     which recipients wait, which sessions exist, who is next
//	elastic   how many sessions a site gets, at which address, and how fast they send
//	slots     what is known of an address, and the places that we hold there
//	manners   how a host must be spoken to, where that is not as it announces
//	route     DNS: exchangers, addresses; route/dane and route/sts, policies
//	simulate  a receiver inside the agent, to try what becomes of outcomes
//	sites     which domains are one site, and what it is called
//	pools     which address mail leaves from
//	warmup    how much new addresses send, a day after the other; what a day was
//	quotas    what streams may send in an hour and on a day; counts that outlive a crash
//	fleet/lease
//	          what each node of a fleet may use of a limit that they share
//	breaker   which streams bounce or are complained about too much, by a sequential test
//	fleet     this host's part among others: its connection to the store, its calls
//	windows   when streams may send, by the clock on a wall
//	smtp      one connection and its transactions
//	daily     the report of a day, for the mail to the admin
//	dialogue  what sessions and receivers say, for admins who look on
//	outcome   what a reply or a failure means for a recipient
//	dsn       the text of reports
//	spool     files shared with the milter, the journal of outcomes
//	event     the account of a delivery: the log's two forms, the event file
//	suppress  addresses that are not mailed any more
//	feedback  the text of reports that come back, and the box in which they wait
//	eventlog  the agent's own log of events, read by cursor
//	outcomes  what became of mail, for days and months: databases filled from eventlog
//	fleet/order     common orders of a fleet's nodes: signed, and merged in any order
//	fleet/exchange  how they come to all nodes: by a store, and directly
//	webhook   events posted to receivers of the admin's, from an eventlog of its own
//	history   the last hours, for the page; web, the page itself
//	metrics   counters for Prometheus
//	control   the admin socket: requests, answers, the client
//	move      queued mail goes to another node, and comes from others
//	fleet     peer, how nodes of a fleet speak to each other, and who is let in;
//	          marks, the keys by which they know each other's mail
//	config    millrace.toml as data
//	postconf  what this host's Postfix is set to
//	maillog   lines of the log in Postfix's form
//	trace     our Received field and its keyed mark, which tells whose copy it is on
//	address, durable, listen, loop, printable, transient
//	          what several of them need: plain addresses, files that outlive a crash,
//	          bounded listeners, loops, text for terminals, errors that pass
//
// The milter, which shares spool and config with the agent and nothing else, has its map
// in package milter. What happens is counted in Metrics.Delivery, what is there is read in
// Watch.State (watch/state.go), and both are shown by metrics/collect.go.
//
// # The way of a message
//
//  1. The milter appends it to the spool; Store.Follow reads it (spool/follow.go), or
//     Store.Load at the next start (spool/load.go).
//  2. Agent.follow or load gives it to Orders.Add (orders/orders.go): is its sender
//     paused? Then Queue.Add (queue/queue.go): one entry for each recipient, in a lane of its
//     stream, its domain and what it leaves from (settings/source.go, queue/from.go).
//  3. A domain that is new is asked for (resolve.go, in the order of lookups.go);
//     Settings.Route (settings/route.go) finds its queue, with package route its hosts, and with package sites the name of its
//     site. Queue.Routed makes a site of it.
//     Mail of a stream with limits waits for a permit (queue/gate.go), and what would leave
//     from an address that warms up, or it leaves from another (queue/warmup.go).
//  4. The gates in Queue.grow (queue/grow.go) let a connect through, or not; the last of
//     them is the site's controller, which names the address (elastic/open.go). To an admin
//     they are told by millrace queue --domain X, why SITE, brakes, trace X, and by /readyz.
//     Whether a site gets less than it could, and why, is judged in queue/heldback.go alone.
//  5. Deliverer.Session (deliver/session.go) runs as a goroutine: connect
//     (deliver/connect.go) calls that address, with TLS as settings/secure.go says.
//  6. Queue.Step (queue/step.go) gives the session a job: recipients of one message. What
//     is suppressed is taken out (settle/suppress.go).
//  7. smtp.Conn.Send sends it (smtp/send.go); deliver/replies.go has package outcome
//     decide on each recipient (outcome/decide.go), and gives Results to a Settlement.
//  8. Settlement.Settle (settle/settle.go): a report that is owed is made durable, the
//     outcome is journalled, the listeners hear of it: log, suppression list, event file,
//     logs of events, history, metrics.
//  9. The session's next Step hands the settled recipients to the queue: done, or due
//     again in its timers (queue/timers.go).
//  10. Mail that cannot be tried expires (upkeep.go, queue/overdue.go).
//
// # The way of a refusal
//
//  1. At the banner, EHLO, STARTTLS or AUTH: connect (deliver/connect.go) makes an
//     outcome.Attempt of the error (failure). In a transaction: read (deliver/replies.go)
//     makes one of each recipient's reply.
//  2. Policy.Decide (outcome/decide.go): rules of the configuration first (settings/rules.go,
//     outcome/effect.go), then words, status and code (outcome/reading.go; the table is
//     readings.go, its vocabulary words.go). A Decision is an action, a class, whether it is
//     hard, a signal and perhaps an effect.
//  3. The signal goes to the site's controller with the session's next call of the queue
//     (Opened, Step or Leave; Queue.tell in queue/step.go): fewer slots, a later connect
//     (elastic/refusal.go), a slower pace (elastic/speed.go).
//  4. The effect goes to Orders.ApplyRule (orders/rules.go): a site is slowed or suspended,
//     a stream paused or held, there or everywhere. orders/effects.go keeps those of sites.
//  5. The address is remembered: one that is silent or full is called after its equals
//     (slots/address.go), one that takes no mail of this destination likewise
//     (queue/places.go), and one that refuses all of its mail gives it next to none of the
//     slots that others want (queue/strangers.go).
//  6. Where all of a transaction is deferred for what reads as trouble, another address
//     takes it in the same delivery (Queue.Elsewhere), or the site is suspended but for
//     probes (queue/trouble.go).
//  7. Action Retry: due again by the queue's retry list (Policy.due in outcome/decide.go;
//     the default stands in config/config.go). Action Bounce: the report waits
//     for others of its message (settle/bounce.go), is appended to the spool as mail of our
//     own, and goes the way of all mail, to the host MTA. Action HandBack: the recipient
//     itself moves to the host's lane.
//
// # The way of an admin's verb
//
//  1. The command parses it (cmd/millrace/main.go, act.go and its neighbours) and calls
//     control.Client; the agent's Server
//     checks who asks (control/peer.go), decodes and audits (control/admin.go, act.go).
//  2. control.Backend is implemented by admin.Backend. What is once goes over the queue in
//     passes (admin/act.go: actionOf says which for each verb): Queue.List shows pages, an
//     orders.Selection picks, Queue.Take takes out, and package settle settles.
//     Mail that moves to another node (admin/move.go) is taken out in the same way, and package
//     move has it settled once it is durable there.
//  3. What lasts changes orders (admin/verbs.go, Orders.Change): standing.json is replaced,
//     the queue's pauses, limits and priorities are set, and messages that a pause of their
//     envelope is for are parked (ApplyToQueued).
//
// # Words
//
// A term means one thing, in code, comments and messages of commits. Verbs, JSON fields,
// metrics, log lines and keys have their own names, which do not change; where they differ
// they are in brackets.
//
//	recipient    one address of one message; what waits, is tried and settled
//	message      an envelope and its content in the spool
//	stream       a campaign or list, as the client or the milter named it
//	origin       diverted from the host, or a report of our own
//	lane         recipients of one stream and one domain, first in, first out
//	domain       of the recipients; a pseudo domain for what goes to a relay
//	route        where a domain's mail goes, and under which queue's rules
//	queue        a section [[queue]] of the configuration; also package queue, which has all mail
//	destination  sets of addresses, or MX hosts where names are verified, with TLS and source;
//	             domains that share it share sessions
//	site         the unit of limits: a provider, or all domains whose best hosts have the same
//	             addresses (package sites, which names it); has one controller
//	host         one server by name and address
//	place        an address of a destination, and the source for it
//	slot         a place among the connections that an address takes from us: held from the
//	             start of a connect until the receiver has noticed the end
//	down         of an address: its last connect failed, for another reason than too many
//	             connections, and its equals go first for a time; where all are, the site is dead
//	source       an address that connections come from
//	pool         sources, with weights, that a rule, a stream or a queue names
//	from         what a recipient's mail leaves from: a pool, and once it was tried its sources
//	gate         where mail of a stream with limits waits; a permit lets one transaction pass
//	course       how far an address that warms up has come at a provider, by its plan
//	share        of a day: how many recipients it may try there for the first time
//	overflow     mail for which it has no room: sent by warm addresses, waiting, or handed back
//	known        of a recipient: took mail from this host before, as far as outcomes are kept
//	session      one connection, from the wish for it to its end
//	job          recipients of one message that a session has taken
//	transaction  one job on the wire, from MAIL to the replies
//	attempt      what outcome decides on: a reply or a failure, with the recipient's past
//	decision     action, class, whether hard, signal, effect of an attempt
//	hard         of a refusal: it speaks of the recipient's address; only that suppresses
//	reading      a shipped way to read replies: by stage, status and notions of words
//	signal       evidence for a site's controller
//	effect       what a reply rule does to a site or a stream
//	rule         a section [[reply]]: which replies it is about, and its effect
//	result       the decision on one recipient of a job
//	settlement   all results of a job, on their way to be final
//	outcome      a final or deferring result as the journal has it
//	report       a delivery status notification (DSN), a message of our own
//	bounce       an outcome that failed for good, and is reported
//	warning      a report that mail is late (NOTIFY=DELAY)
//	suppressed   not tried, as the address has bounced too often
//	deferred     tried, and due again later
//	pause        keeps mail from being sent until it is resumed ("pause")
//	parked       kept in the queue by a pause of its envelope
//	held         of one message or recipient, by hold, until it is released
//	limit        bounds a site's or queue's sessions or rate for a time
//	clamp        the same by the agent itself, by a rule or for the host
//	fleet        hosts that share limits, by a store that lends between them
//	node         a host of a fleet, by its name there
//	member       a node that the store knows, until it leaves or is forgotten
//	floor        this node's own part of a shared limit
//	lease        all that the store has lent to a member, to its end
//	loan         of one shared limit of sessions, what this node may use (queue/loan.go)
//	orders       pauses, limits and priorities in force ("standing")
//	common       of an order: all nodes of the fleet obey it; the others are of this node alone
//	lift         to end a common order by naming it
//	position     how far a spool was filled at a moment
//	hand back    to give mail to the host MTA, which sends it itself
//	came back    of a report by others on mail that they had taken: a late bounce, a
//	             complaint, or feedback of another kind
//	stuck        refused by the host MTA; kept, and tried again
//	host MTA     the Postfix or Sendmail that mail was diverted from
//	relay        a server that the configuration names in place of exchangers
//	expire       to be too old for a further try
//	moved        of a recipient: another node has it, durable, and sends it from now on
//	transfer     what one move gives to one node, in batches
package agent
