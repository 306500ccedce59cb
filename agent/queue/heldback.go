package queue

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/elastic"
)

// Reason says in a word why a site gets less than it could.
type Reason string

// The reasons. They are values of a metric's label and in the JSON of listings.
const (
	Suspended  Reason = "suspended"   // a rule about a reply, or the agent for the host MTA, stopped it for a time
	Dead       Reason = "dead"        // no session comes up, at all addresses or at one of several
	Refused    Reason = "refused"     // more sessions were refused, below its max_sessions, or ended ones hold their slots still
	Slowed     Reason = "slowed"      // by the pace that the receiver takes, or a rule about a reply
	Crowded    Reason = "crowded"     // another site has the connections that its address takes
	QueueLimit Reason = "queue_limit" // max_sessions, max_message_rate or max_connection_rate of its queue, or an admin's limit
	AgentLimit Reason = "agent_limit" // max_sessions of the agent
	FleetLimit Reason = "fleet_limit" // what this node may use of a limit that the fleet's nodes share
)

// Reasons are all of them.
var Reasons = [...]Reason{Suspended, Dead, Refused, Slowed, Crowded, QueueLimit, AgentLimit, FleetLimit}

// HeldBack says why a site gets less than it could. The zero value: it is not held back.
type HeldBack struct {
	Reason Reason
	How    string    // what that means here, as in "takes 7 sessions, 30 are allowed"; nothing of it is a stranger's
	Reply  string    // of the receiver, or the order, behind it; "" if there is none
	Until  time.Time // when it ends; zero: that is not known
	Next   time.Time // when the next try is made; zero: that is not known
}

// evidence is what is known of a site when it is judged.
type evidence struct {
	now                               time.Time
	waiting, sessions, opening, ready int
	answered                          time.Time // as site.answered
	latency                           time.Duration
	control                           elastic.Brief
	target                            elastic.Target
	clamp                             elastic.Clamp // in force if Until is not zero
	inLine                            bool          // it waits for a place among the sessions of the agent
	crowd                             string        // the address where it waits for a slot that another site holds
	connectRate                       float64       // max_connection_rate, if the next connect waits for that
	total                             int           // max_sessions_total, if that is reached
	loan                              loaned        // of a limit that nodes share, if that is used up
	sources                           int           // sites that share it: one for each source address
	down                              down
}

// loaned is what this node may use of a limit; the zero value: nothing is to be told of it.
type loaned struct{ may, limit, floor int }

// down is what is known of a site's destinations that have mail and, since a connect
// failed, nothing up.
type down struct {
	waiting int       // recipients
	how     string    // it failed, as elastic.Signal has it
	reason  string    // of the failure
	next    time.Time // when the first of them is tried again
}

// silentFor is the least time without any answer after which sessions that are up count as
// hung; a site of slow transactions has four of them.
const silentFor = time.Minute

// judge says whether the site is held back, and by what. It is the only place where that is
// decided: page, top, why, listings and metrics tell what it says. The first that holds is
// the reason:
//
//	suspended    a clamp to no session is in force
//	             no mail waits: it is not held back, but a clamp in force is told
//	             nothing is up:
//	refused        a connect was refused and none was let in since
//	dead           connects failed, or they hang
//	agent_limit    it waits in line for a session
//	crowded        another site has the slots
//	queue_limit    max_sessions_total
//	fleet_limit    what this node may use of a limit that others share
//	queue_limit    max_connection_rate
//	refused        all slots are those of sessions that have just ended, or one more than is wanted
//	               was refused
//	             sessions are up:
//	dead           none of them had an answer for a minute
//	agent_limit    it waits in line for another session
//	crowded        another site has the slots
//	slowed         a clamp's sessions are all there
//	slowed, queue_limit   sessions stand ready with mail waiting: the tightest pace
//	dead, refused, slowed, queue_limit   fewer slots are held than wanted: addresses that are
//	               down or let nobody in, the pace, max_connection_rate
//	fleet_limit    what this node may use of a limit that others share is used up
//	queue_limit    max_sessions_total is reached, or max_sessions slots are wanted
//	refused        one more than is wanted was refused
//	dead         a part of its destinations is down
//
// A site that grows, or that would not send more over more sessions, is not held back.
func (e *evidence) judge() HeldBack {
	c := &e.control
	clamped := e.clamped()
	switch {
	case clamped.Reason == Suspended || e.waiting == 0:
		return clamped
	case e.sessions == 0:
		return e.nothingUp()
	}
	wanted := min(c.Want, c.Limits.MaxSessions) - c.Host
	full := c.Held-c.Hanging >= wanted
	switch silent := e.now.Sub(e.answered); {
	case e.ready == 0 && silent > max(silentFor, 4*e.latency):
		return HeldBack{Reason: Dead, How: fmt.Sprintf("%s, and no answer for %s", count(e.sessions, "session is up", "sessions are up"), silent.Truncate(time.Second))}
	case e.inLine:
		return e.inLineForOne()
	case e.crowd != "":
		return e.crowded()
	case e.clamp.Sessions > 0 && c.Held >= e.clamp.Sessions && !e.clamp.Until.IsZero():
		return clamped
	case e.ready > 0 && e.target.Pace > 0:
		return e.paced()
	case !full && c.Down > 0:
		are := "are"
		if c.Down == 1 {
			are = "is"
		}
		return HeldBack{Reason: Dead, How: fmt.Sprintf("%d of %d addresses %s down", c.Down, c.Called, are), Reply: cmp.Or(e.down.reason, c.Failed), Next: c.Back}
	case !full && c.Bounded() && c.Refusing > 0:
		return e.refused(fmt.Sprintf("%d of %d addresses let nobody in", c.Refusing, c.Called))
	case !full && e.target.Slowed:
		return e.paced()
	case !full && e.connectRate > 0:
		return e.connects()
	case e.waiting <= e.opening+e.ready:
	case e.loan.limit > 0 && !(full && c.Bounded()):
		return e.onLoan()
	case e.total > 0 && !(full && c.Bounded()):
		return e.inTotal()
	case c.Want >= c.Limits.MaxSessions && full:
		h := e.ceiling("max_sessions is " + strconv.Itoa(c.Limits.MaxSessions))
		if c.Host > 0 {
			h.How += fmt.Sprintf("; %d of them left to the host's own mail", c.Host)
		}
		return h
	case c.Want < c.Limits.MaxSessions && c.Bounded():
		return e.takes()
	}
	if e.down.waiting > 0 {
		h := e.dead()
		h.How = count(e.down.waiting, "recipient waits", "recipients wait") + " for hosts that are down"
		return h
	}
	return clamped
}

// nothingUp judges a site with mail and without a session.
func (e *evidence) nothingUp() HeldBack {
	c := &e.control
	switch {
	case c.Refusing > 0 || c.Reply != "" && e.now.Before(c.Opens):
		return e.refused("lets nobody in")
	case e.down.waiting > 0:
		return e.dead()
	case c.Hanging > 0:
		return HeldBack{Reason: Dead, How: "no answer yet"}
	case e.inLine:
		return e.inLineForOne()
	case e.crowd != "":
		return e.crowded()
	case e.total > 0:
		return e.inTotal()
	case e.loan.limit > 0:
		return e.onLoan()
	case e.connectRate > 0:
		return e.connects()
	case e.waiting <= e.opening:
	case c.Bounded() && c.Want < c.Limits.MaxSessions:
		return e.takes()
	case c.Lagging > 0 && c.Held-c.Hanging >= c.Want:
		return e.refused(e.ended())
	}
	return HeldBack{}
}

// takes tells of a limit that was found.
func (e *evidence) takes() HeldBack {
	c := &e.control
	how := fmt.Sprintf("takes %s, %d are allowed", count(c.Want, "session", "sessions"), c.Limits.MaxSessions)
	if c.Lagging > 0 {
		how += "; " + e.ended()
	}
	if c.Uncalled > 0 {
		how += fmt.Sprintf("; %d of %d addresses not called since they failed", c.Uncalled, c.Called)
	}
	return e.refused(how)
}

// ended tells of slots that hold their place though their session has ended.
func (e *evidence) ended() string {
	return count(e.control.Lagging, "slot is that of a session that has just ended", "slots are those of sessions that have just ended")
}

// clamped tells of a clamp that is in force.
func (e *evidence) clamped() HeldBack {
	cl := &e.clamp
	if cl.Until.IsZero() {
		return HeldBack{}
	}
	h := HeldBack{Reason: Slowed, Reply: cl.Reason, Until: cl.Until}
	switch {
	case cl.Sessions == 0:
		h.Reason, h.How = Suspended, "suspended"
	case cl.Sessions > 0:
		h.How = "at most " + count(cl.Sessions, "session", "sessions")
	default:
		h.How = "at most " + rate(cl.Pace)
	}
	return h
}

// paced tells of the tightest pace.
func (e *evidence) paced() HeldBack {
	pace := e.target.Pace
	switch {
	case e.clamp.Pace > 0 && e.clamp.Pace == pace:
		return e.clamped()
	case e.control.Limits.MaxRate > 0 && e.control.Limits.MaxRate == pace:
		return e.ceiling("max_message_rate is " + rate(pace))
	}
	return HeldBack{Reason: Slowed, How: "takes about " + rate(pace), Reply: e.control.TooFast}
}

func (e *evidence) refused(how string) HeldBack {
	h := HeldBack{Reason: Refused, How: how, Reply: e.control.Reply, Next: e.control.Opens}
	if !h.Next.After(e.now) {
		h.Next = e.control.Next
	}
	if !h.Next.After(e.now) {
		h.Next = time.Time{} // it may be tried at once: that has to be earned
	}
	return h
}

func (e *evidence) dead() HeldBack {
	return HeldBack{Reason: Dead, How: cmp.Or(e.down.how, "no answer"), Reply: e.down.reason, Next: e.down.next}
}

func (e *evidence) crowded() HeldBack {
	return HeldBack{Reason: Crowded, How: "other sites have the connections that " + e.crowd + " takes", Reply: e.control.Reply}
}

func (e *evidence) inLineForOne() HeldBack {
	if e.sessions == 0 {
		return HeldBack{Reason: AgentLimit, How: "waits for its turn: max_sessions of [agent] allows no more connects at a time"}
	}
	return HeldBack{Reason: AgentLimit, How: "waits for another session: max_sessions of [agent] is reached"}
}

func (e *evidence) connects() HeldBack {
	return HeldBack{Reason: QueueLimit, How: fmt.Sprintf("max_connection_rate is %.3g/s", e.connectRate), Reply: "the configuration"}
}

// ceiling tells of a limit that the configuration or an admin has set.
func (e *evidence) ceiling(what string) HeldBack {
	return HeldBack{Reason: QueueLimit, How: what, Reply: e.control.Limits.Why}
}

// count writes "1 session", "2 sessions".
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + more
}

// rate writes a rate of messages per second with three digits, of few in a minute or an hour.
func rate(r float64) string {
	if r >= 100 {
		return fmt.Sprintf("%.0f messages a second", math.Round(r))
	}
	n, unit := config.Rate(r).Per()
	article := "a"
	if unit == "hour" {
		article = "an"
	}
	return fmt.Sprintf("%.3g messages %s %s", n, article, unit)
}
