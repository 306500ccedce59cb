package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
	"github.com/millrace/millrace/agent/route"
	"github.com/millrace/millrace/agent/spool"
)

// State is what a scrape finds.
type State struct {
	Ready                                  bool
	Waiting, Deferred, Active              int // recipients
	Sessions, MaxSessions, StalledSessions int
	PausedStreams                          int
	BreakerHeld                            map[string]int // streams that the breaker holds, by queue
	UnknownReplies                         int            // since the start
	Limited                                int            // recipients that wait for a window or a quota of their streams
	Sources                                []control.Source
	Limits                                 []control.StreamLimits
	Warmups                                []control.Warmup
	WarmingUp                              int // recipients that wait for room at addresses that warm up
	Sites                                  []queue.Site
	Spool                                  spool.Usage
	Damaged                                int // records
	DNS                                    route.Counts
	Reports                                map[[2]string]uint64 // that came back, by kind and result
	Outcomes                               OutcomeStats
	OutcomesFail                           bool // they are not kept as they should be
	Webhooks                               []Webhook
	Fleet                                  Fleet
	Milter                                 control.MilterCounts
	MilterAt                               time.Time // of the milter's last report; zero: none yet
	InletPassing                           bool      // all mail of the inlet goes to the host MTA
}

// OutcomeStats are those of package outcomes.
type OutcomeStats struct {
	On               bool
	Rows, Lost       uint64
	Octets, Log, WAL int64
	Days             int
}

// Fleet is how this node stands with its fleet.
type Fleet struct {
	On, Store, Recovery bool
	Lease               float64 // seconds
	Calls, Errors       uint64
	Members             int
	Lent, Wanting       int            // limits
	Differing           int            // limits that are smaller on another node, of a few that are told
	StoreRefuses        bool           // what common orders need
	OrdersRefused       map[string]int // by reason; nil: no orders are common here
	PeersRefused        uint64
	Transfers           int     // open
	Oldest              float64 // seconds that the batch of one has been open
}

// Webhook is how a [[webhook]] stands.
type Webhook struct {
	Name           string
	Failing        bool
	Waiting, Aside uint64 // events
	Taken, Lost    uint64 // since it began
}

var _ prometheus.Collector = (*Metrics)(nil)

// Describe says nothing in advance: the collector is unchecked, and what it gives
// is consistent by construction.
func (m *Metrics) Describe(chan<- *prometheus.Desc) {}

// scrape is one collection. The metrics are put aside under the mutex and handed
// over without it: nobody who counts waits for a reader.
type scrape struct {
	*Metrics
	out []prometheus.Metric
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("millrace_"+name, help, labels, nil)
}

func (s *scrape) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.out = append(s.out, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
}

func (s *scrape) count(d *prometheus.Desc, v uint64, labels ...string) {
	s.out = append(s.out, prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...))
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	st := m.state() // takes other locks than ours
	s := &scrape{Metrics: m}
	s.whole(&st)
	m.mu.Lock()
	now := time.Now()
	m.queues.look(now)
	m.sites.look(now)
	m.streams.look(now)
	s.byQueue()
	s.bySite()
	s.byStream()
	s.now(st.Sites)
	m.mu.Unlock()
	for _, x := range s.out {
		out <- x
	}
}

func (s *scrape) webhooks(list []Webhook) {
	failing := desc("webhook_failing", "1 while a [[webhook]] takes nothing, for five minutes or more; /readyz says why. Mail goes on.", "webhook")
	waiting := desc("webhook_waiting_events", "Events of the log that a [[webhook]] has not passed; those for others are counted with them.", "webhook")
	aside := desc("webhook_aside_events", "Events that a [[webhook]] refused, and that are listed; millrace webhook list has them.", "webhook")
	taken := desc("webhook_taken_events_total", "Events that a [[webhook]] has taken.", "webhook")
	lost := desc("webhook_lost_events_total", "Events that waited for a [[webhook]] too long, or could not be written; those for others are counted with them.", "webhook")
	for i := range list {
		x := &list[i]
		s.gauge(failing, number(x.Failing), x.Name)
		s.gauge(waiting, float64(x.Waiting), x.Name)
		s.gauge(aside, float64(x.Aside), x.Name)
		s.count(taken, x.Taken, x.Name)
		s.count(lost, x.Lost, x.Name)
	}
}

// limits are those of [[stream]]s. Their names are the admin's; what they have of addresses is
// nobody's business all the same.
func (s *scrape) limits(list []control.StreamLimits) {
	limit := desc("stream_quota", "Recipients that may accept mail of a [[stream]] in an hour or on a day, of a queue or of all.", "stream", "queue", "period")
	used := desc("stream_quota_used", "How many of these have.", "stream", "queue", "period")
	open := desc("stream_window_open", "1 if the window of a [[stream]] is open, 0 if it is closed.", "stream")
	for i := range list {
		x := &list[i]
		name := maillog.WithoutLocalParts(x.Name)
		for _, q := range x.Quotas {
			period := "hour"
			if q.Day {
				period = "day"
			}
			s.gauge(limit, float64(q.Limit), name, q.Queue, period)
			s.gauge(used, float64(q.Used), name, q.Queue, period)
		}
		if x.Window != "" {
			s.gauge(open, number(!x.Closed), name)
		}
	}
}

// warmups are the courses of addresses that warm up.
func (s *scrape) warmups(list []control.Warmup) {
	day := desc("warmup_step", "Day of its plan that an address is on at a queue, from 1; 0: it is warm.", "address", "queue")
	days := desc("warmup_steps", "Days that the plan of an address has.", "address", "queue")
	share := desc("warmup_share", "Recipients that an address may send to for the first time at a queue today; 0: as many as it likes.", "address", "queue")
	used := desc("warmup_used", "How many of these it has.", "address", "queue")
	bad := desc("warmup_held", "Days in a row, up to yesterday, on which too much was refused, bounced or complained about to go on.", "address", "queue")
	for i := range list {
		x := &list[i]
		s.gauge(day, float64(x.Day), x.Address, x.Queue)
		s.gauge(days, float64(len(x.Shares)), x.Address, x.Queue)
		s.gauge(share, float64(x.Share), x.Address, x.Queue)
		s.gauge(used, float64(x.Used), x.Address, x.Queue)
		s.gauge(bad, float64(x.HeldDays), x.Address, x.Queue)
	}
}

// sources are the addresses that mail leaves from.
func (s *scrape) sources(list []control.Source) {
	present := desc("source_present", "1 if an address that mail leaves from can be bound, 0 if it cannot.", "address", "pool")
	blocked := desc("source_blocked", "1 for an address that mail leaves from and a receiver that says it is blocked.", "address", "pool", "site")
	for i := range list {
		x := &list[i]
		s.gauge(present, number(!x.Absent), x.Address, x.Pool)
		sites := make(map[string]bool) // two rules may say it of one
		for _, e := range x.Blocked {
			if !sites[e.Site] {
				sites[e.Site] = true
				s.gauge(blocked, 1, x.Address, x.Pool, e.Site)
			}
		}
	}
}

// whole are the metrics of the agent as a whole, and of the milter.
func (s *scrape) whole(st *State) {
	s.gauge(desc("ready", "1 if /readyz says ok, 0 if an admin is needed."), number(st.Ready))
	recipients := desc("recipients", "Recipients queued, by state; a recipient is deferred until it is due again, and active in a transaction.", "state")
	s.gauge(recipients, float64(st.Waiting), "waiting")
	s.gauge(recipients, float64(st.Deferred), "deferred")
	s.gauge(recipients, float64(st.Active), "active")
	s.gauge(desc("recipients_limited", "Recipients that wait for the window or a quota of their [[stream]]; they are among those waiting."), float64(st.Limited))
	s.gauge(desc("sessions", "Connections, up or being opened."), float64(st.Sessions))
	s.gauge(desc("sessions_limit", "Most connections of all sites together, max_sessions of [agent]."), float64(st.MaxSessions))
	s.gauge(desc("sessions_stalled", "Sessions that send nothing because an outcome cannot be written to the journal."), float64(st.StalledSessions))
	s.count(desc("replies_unknown_total", "Replies of receivers that no rule or reading knew; millrace reply --unknown lists examples."), uint64(st.UnknownReplies))
	s.gauge(desc("streams_paused", "Streams that are paused or held."), float64(st.PausedStreams))
	held := desc("breaker_streams_held", "Streams that the breaker holds at a queue.", "queue")
	for queue, n := range st.BreakerHeld {
		s.gauge(held, float64(n), queue)
	}
	s.limits(st.Limits)
	s.warmups(st.Warmups)
	if len(st.Warmups) > 0 {
		s.gauge(desc("recipients_warmup", "Recipients that wait for room at addresses that warm up; they are among those limited."), float64(st.WarmingUp))
	}
	s.sources(st.Sources)

	s.gauge(desc("spool_segments", "Segment files of the spool."), float64(st.Spool.Segments))
	s.gauge(desc("spool_segment_bytes", "Bytes of the records in segment files, without holes; large messages have files of their own."), float64(st.Spool.SegmentOctets))
	s.gauge(desc("spool_free_bytes", "Bytes that can still be written on the spool's file system."), float64(st.Spool.Free))
	s.gauge(desc("spool_damaged_records", "Records of the spool found damaged since the start, at most 1,000."), float64(st.Damaged))
	s.count(desc("journal_errors_total", "Outcomes that could not be written to the journal, each try counted."), s.journal.Load())

	if x := &st.Outcomes; x.On {
		s.gauge(desc("outcomes_failing", "1 while outcomes are not kept as they should be; /readyz says why. Mail goes on."), number(st.OutcomesFail))
		s.count(desc("outcomes_rows_total", "Attempts that were written to the databases of outcomes."), x.Rows)
		s.count(desc("outcomes_lost_events_total", "Events that are missing among the outcomes."), x.Lost)
		s.gauge(desc("outcomes_bytes", "Bytes of the databases of outcomes."), float64(x.Octets))
		s.gauge(desc("outcomes_log_bytes", "Bytes of the log of events that they are filled from."), float64(x.Log))
		s.gauge(desc("outcomes_wal_bytes", "Bytes of the write-ahead log of the day under way; it grows while another program reads."), float64(x.WAL))
	}

	s.webhooks(st.Webhooks)
	if x := &st.Fleet; x.On {
		s.gauge(desc("fleet_store_up", "1 while the fleet's store answers; without it this node uses its own part of each shared limit. Mail goes on."), number(x.Store))
		s.gauge(desc("fleet_recovery", "1 while the fleet's store is new or was started anew, and lends nothing more."), number(x.Recovery))
		s.gauge(desc("fleet_lease_seconds_left", "Seconds that this node's lease runs yet; 0: it has its own part of each shared limit."), x.Lease)
		s.gauge(desc("fleet_members", "Nodes of the fleet, as this one knows them; 0: it has no part yet."), float64(x.Members))
		s.gauge(desc("fleet_lent_limits", "Shared limits of which this node has more than its own part."), float64(x.Lent))
		s.gauge(desc("fleet_wanting_limits", "Shared limits of which this node could use more than it may."), float64(x.Wanting))
		s.gauge(desc("fleet_differing_limits", "Shared limits that are smaller on another node, which is what is lent; of the last call, 5 at most."), float64(x.Differing))
		s.gauge(desc("fleet_store_refuses", "1 while the fleet's store answers, and refuses what orders need, which then reach only nodes that can be called directly."), number(x.StoreRefuses))
		s.count(desc("fleet_calls_total", "Calls of the fleet's store that were answered."), x.Calls)
		s.count(desc("fleet_errors_total", "Calls of the fleet's store that were not answered."), x.Errors)
		refused := desc("fleet_orders_refused_total", "Orders and reports of other nodes that were not taken, by reason: forged, foreign (of another fleet), unknown (a node that is none), full, format.", "reason")
		for reason, n := range x.OrdersRefused {
			s.count(refused, uint64(n), reason)
		}
		s.count(desc("fleet_peers_refused_total", "Connections and requests to listen of [fleet] that were no member's."), x.PeersRefused)
		s.gauge(desc("fleet_transfers_open", "Transfers of mail to and from other nodes whose last batch is not confirmed; millrace move --list has them."), float64(x.Transfers))
		s.gauge(desc("fleet_transfer_oldest_seconds", "Seconds since the oldest batch of a transfer that is open was begun; 0: none is."), x.Oldest)
	}
	queries := desc("dns_queries_total", "Queries to the resolvers, by what came of them.", "result")
	s.count(queries, st.DNS.Found, "found")
	s.count(queries, st.DNS.NoData, "nodata")
	s.count(queries, st.DNS.NXDomain, "nxdomain")
	s.count(queries, st.DNS.Failed, "failed")
	s.count(desc("dns_cache_hits_total", "Questions answered from the agent's own cache."), st.DNS.Cached)

	reports := desc("reports_total", "What reports that came back said of recipients since the start, by kind and by what came of it; the milter's count has those that it did not keep.", "kind", "result")
	for _, kind := range [...]string{"late_bounce", "complaint", "feedback", "no_failure", "unknown"} {
		for _, result := range [...]string{"counted", "uncounted", "repeated", "old", "unverified"} {
			s.count(reports, st.Reports[[2]string{kind, result}], kind, result)
		}
		if n := st.Reports[[2]string{kind, "handedover"}]; n > 0 { // in a fleet alone
			s.count(reports, n, kind, "handedover")
		}
	}

	if st.MilterAt.IsZero() {
		return
	}
	s.gauge(desc("milter_report_timestamp_seconds", "When the milter last reported to the agent, as Unix time."), float64(st.MilterAt.UnixMilli())/1000)
	verdicts := desc("milter_messages_total", "Messages that the milter decided on since its start, by verdict.", "verdict")
	for _, v := range [...]string{"leave", "observe", "delrcpt", "discard", "inlet", "tempfail", "lost"} {
		s.count(verdicts, st.Milter.Messages[v], v)
	}
	oneFamily := desc("milter_one_family_total", "Messages that the milter left with the host as their evidence of bulk was of one family alone, by family.", "family")
	for _, f := range [...]string{"opt-in", "list-software", "campaign-software", "structure"} {
		s.count(oneFamily, st.Milter.OneFamily[f], f)
	}
	passing := desc("milter_reports_total", "Messages that may be reports on mail of ours and passed the milter since its start, by what became of them: kept for the agent; unverified, without a mark of ours; none; unread, as there were too many; lost.", "result")
	for _, r := range [...]string{"kept", "unverified", "none", "unread", "lost"} {
		s.count(passing, st.Milter.Reports[r], r)
	}
	if len(st.Milter.Inlet) > 0 {
		inlet := desc("inlet_messages_total", "Messages that clients handed to the inlet since the milter's start, by result: spooled; passed, the host MTA took it; refused, nobody took it; unsure, of those refused, the host MTA may have taken it.", "result")
		for _, r := range [...]string{"spooled", "passed", "refused", "unsure"} {
			s.count(inlet, st.Milter.Inlet[r], r)
		}
		s.count(desc("inlet_turned_away_total", "Connections that the inlet turned away or ended since the milter's start: too many, not allowed, or not SMTP."), st.Milter.Inlet["turned_away"])
		s.gauge(desc("inlet_passing", "1 while all mail of the inlet goes to the host MTA, as a setting is passed by that nobody has accepted, or that is not known; millrace check says which."), number(st.InletPassing))
	}
	s.count(desc("milter_diverted_recipients_total", "Recipients that the milter diverted since its start."), st.Milter.Recipients)
	s.count(desc("milter_connections_total", "Connections of the host MTA to the milter since its start."), st.Milter.Connections)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *scrape) statuses(d *prometheus.Desc, label string, c *statusCounts) {
	for i, n := range c {
		s.count(d, n, label, statusLabel(i))
	}
}

func (s *scrape) classes(d *prometheus.Desc, label string, c *classCounts) {
	for i, n := range c {
		if class := outcome.Class(i); class != outcome.ClassNone {
			s.count(d, n, label, class.String())
		}
	}
}

func (s *scrape) byQueue() {
	attempts := desc("deliveries_total", "Delivery attempts by what became of the recipient.", "queue", "status")
	bounces := desc("bounces_total", "Recipients that failed for good, by class.", "queue", "class")
	deferrals := desc("deferrals_total", "Attempts that failed for now, by class.", "queue", "class")
	connects := desc("connects_total", "Connects to receivers' hosts by result.", "queue", "result")
	octets := desc("sent_bytes_total", "Bytes of content sent, each recipient counted.", "queue")
	delay := desc("delivery_delay_seconds", "Time from a message's arrival to its acceptance by the receiver.", "queue")
	s.queues.each(func(label string, c *queueCounts) {
		s.statuses(attempts, label, &c.status)
		s.classes(bounces, label, &c.bounced)
		s.classes(deferrals, label, &c.deferred)
		for i, n := range c.connects {
			s.count(connects, n, label, connectResults[i])
		}
		s.count(octets, c.octets, label)
		s.out = append(s.out, c.delay.metric(delay, label))
	})
	part := desc("delivery_stage_seconds", "Parts of the delay of what was sent: waiting in the queue, opening a connection where one was opened, transmitting.", "stage")
	for i := range s.stages {
		s.out = append(s.out, s.stages[i].metric(part, stageNames[i]))
	}
}

func (s *scrape) bySite() {
	attempts := desc("site_deliveries_total", "Delivery attempts of the busiest sites by what became of the recipient.", "site", "status")
	refusals := desc("site_refusals_total", "Connects and transactions that a site refused as one too many or too fast.", "site")
	s.sites.each(func(label string, c *siteCounts) {
		s.statuses(attempts, label, &c.status)
		s.count(refusals, c.refusals, label)
	})
}

func (s *scrape) byStream() {
	attempts := desc("stream_deliveries_total", "Delivery attempts of the busiest streams by what became of the recipient.", "stream", "status")
	bounces := desc("stream_bounces_total", "Recipients of the busiest streams that failed for good, by class.", "stream", "class")
	s.streams.each(func(label string, c *streamCounts) {
		s.statuses(attempts, label, &c.status)
		s.classes(bounces, label, &c.bounced)
	})
}

// sum is the present of the sites that share a label.
type sum struct {
	sites, waiting, ready, opening, busy, target int
	pace                                         float64
}

func (x *sum) add(s *queue.Site) {
	x.sites++
	x.waiting += s.Waiting
	x.ready += s.Ready
	x.opening += s.Opening
	x.busy += s.Sessions - s.Ready
	x.target += s.Target.Sessions
	x.pace += s.Target.Pace
}

// now shows the sites as they are, by queue, and the busiest by themselves.
func (s *scrape) now(sites []queue.Site) {
	s.heldBack(sites)
	queues, own := make(map[string]*sum), make(map[string]*sum)
	into := func(m map[string]*sum, label string, x *queue.Site) {
		if m[label] == nil {
			m[label] = &sum{}
		}
		m[label].add(x)
	}
	for i := range sites {
		x := &sites[i]
		into(queues, s.queues.label(x.Queue), x)
		into(own, s.sites.label(x.Name), x)
	}
	count := desc("queue_sites", "Sites of a queue that are known at present.", "queue")
	for label, x := range queues {
		s.gauge(count, float64(x.sites), label)
	}
	s.sums("queue", queues)
	s.sums("site", own)
	pace := desc("site_pace_messages_per_second", "Messages that may begin in a second at a site; 0 is no limit.", "site")
	for label, x := range own {
		if label != other {
			s.gauge(pace, x.pace, label)
		}
	}
}

// heldBack shows by each reason how many sites get less than they could.
func (s *scrape) heldBack(sites []queue.Site) {
	type held struct{ sites, waiting int }
	all := make(map[queue.Reason]held)
	for i := range sites {
		h := all[sites[i].HeldBack.Reason]
		h.sites++
		h.waiting += sites[i].Waiting
		all[sites[i].HeldBack.Reason] = h
	}
	count := desc("sites_held_back", "Sites that get less than they could, by reason; \"millrace top\" and the status page name them.", "reason")
	waiting := desc("held_back_recipients", "Recipients that could be sent now and wait at sites that get less than they could, by reason.", "reason")
	for _, reason := range queue.Reasons {
		s.gauge(count, float64(all[reason].sites), string(reason))
		s.gauge(waiting, float64(all[reason].waiting), string(reason))
	}
}

func (s *scrape) sums(what string, all map[string]*sum) {
	waiting := desc(what+"_waiting_recipients", "Recipients that could be sent now, by "+what+".", what)
	sessions := desc(what+"_sessions", "Connections by "+what+" and state; a ready one waits for work.", what, "state")
	target := desc(what+"_sessions_target", "Connections that the controller wants, by "+what+".", what)
	for label, x := range all {
		s.gauge(waiting, float64(x.waiting), label)
		s.gauge(sessions, float64(x.busy), label, "busy")
		s.gauge(sessions, float64(x.ready), label, "ready")
		s.gauge(sessions, float64(x.opening), label, "opening")
		s.gauge(target, float64(x.target), label)
	}
}
