package outcome

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// stuckRetry is how often the host MTA is asked again to take what it refused.
const stuckRetry = time.Hour

// Decide says what follows from an attempt.
func (p Policy) Decide(now time.Time, a Attempt) Decision {
	r := read(&a, p.Rules)
	d := Decision{
		Class: r.class, Hard: r.hard, Rule: r.rule, Signal: r.sig, Enhanced: r.enhanced, Reason: reason(&a), Effect: r.effect,
		Greylisted: r.class == ClassGreylisted, Wait: r.wait,
	}
	switch {
	case r.end == delivered:
		d.Action = Deliver
	case r.end == damaged:
		d.Action = Damage
	case a.ToHost:
		p.atHost(now, &a, &r, &d)
	case r.end == permanent:
		d.Action = Bounce
	case r.end == unfit:
		d.Action = HandBack
	case p.expired(now, &a):
		d.Action, d.Class, d.Hard, d.Enhanced = Bounce, ClassExpired, false, "4.4.7"
		d.Reason = fmt.Sprintf("message expired after %s in the queue: %s", days(p.Expire), d.Reason)
	case p.HandbackAfter > 0 && old(now, &a, p.HandbackAfter):
		d.Action = HandBack
		d.Reason = fmt.Sprintf("deferred for %s: %s", days(p.HandbackAfter), d.Reason)
	default:
		d.Action, d.Due = Retry, p.due(now, &a, &r)
	}
	return d
}

// atHost decides on what was given to the host MTA. It is the last resort, and a
// report of its failure would go the same way: so it never bounces, neither by a
// refusal nor by age.
func (p Policy) atHost(now time.Time, a *Attempt, r *reading, d *Decision) {
	if r.end != temporary || p.expired(now, a) {
		d.Action, d.Due = Stuck, now.Add(stuckRetry)
		return
	}
	d.Action, d.Due = Retry, now.Add(min(p.atRelayWait(a.Tries), stuckRetry))
}

// atRelayWait is short at first: the host is near, and most often just restarts.
func (p Policy) atRelayWait(tries int) time.Duration {
	switch tries {
	case 0:
		return 10 * time.Second
	case 1:
		return 30 * time.Second
	case 2:
		return time.Minute
	case 3:
		return 2 * time.Minute
	}
	return p.wait(tries - 4)
}

// wait is the time between a try and the next.
func (p Policy) wait(tries int) time.Duration {
	if len(p.Retry) == 0 {
		return 30 * time.Minute
	}
	return p.Retry[max(0, min(tries, len(p.Retry)-1))]
}

// expired says whether a failure now is final.
func (p Policy) expired(now time.Time, a *Attempt) bool {
	return p.Expire > 0 && old(now, a, p.Expire)
}

// old says whether the message has reached an age.
func old(now time.Time, a *Attempt, age time.Duration) bool {
	return !a.Born.IsZero() && !now.Before(a.Born.Add(age))
}

// jitter is how much of a wait luck may add.
const jitter = 0.1

// due is the next try: never after expiry or the return to the host, so that the
// last one is made then.
func (p Policy) due(now time.Time, a *Attempt, r *reading) time.Time {
	wait := p.wait(a.Tries)
	if r.class == ClassGreylisted {
		wait = p.greylisted(a, r.wait)
	}
	due := now.Add(wait + time.Duration(float64(wait)*jitter*a.Jitter))
	for _, age := range [...]time.Duration{p.Expire, p.HandbackAfter} {
		if end := a.Born.Add(age); age > 0 && !a.Born.IsZero() && due.After(end) {
			due = end
		}
	}
	return due
}

// maxText bounds what somebody else has a part in, in octets: as much as is kept of a
// reply (smtp.Reply). The names in a certificate are many more, if its owner wants.
const maxText = 1024

// reason is one line in the words of Postfix's log.
func reason(a *Attempt) string {
	text := printable.Cut(strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' ' // line ends and what folds them
		}
		return c
	}, a.Text), maxText)
	if a.Code <= 0 {
		if text == "" {
			text = a.Fault.String()
		}
		if a.Peer != "" && !strings.Contains(text, a.Peer) {
			return a.Peer + ": " + text
		}
		return text
	}
	reply := fmt.Sprint(a.Code)
	if _, _, ok := split(a.Enhanced); ok {
		reply += " " + a.Enhanced
	}
	if text != "" {
		reply += " " + text
	}
	host := "host"
	if a.Peer != "" {
		host += " " + a.Peer
	}
	switch {
	case a.Code/100 == 2:
		return reply
	case a.Stage == Connect:
		return host + " refused to talk to me: " + reply
	}
	return fmt.Sprintf("%s said: %s (in reply to %s)", host, reply, a.command())
}

// command is what a reply answered, as Postfix's log calls it.
func (a *Attempt) command() string {
	switch a.Stage {
	case TLS:
		return "STARTTLS command"
	case Mail:
		return "MAIL FROM command"
	case Rcpt:
		return "RCPT TO command"
	case Data:
		if a.BeforeContent {
			return "DATA command"
		}
		return "end of DATA command"
	}
	return "no command"
}

// days writes a time the way it stands in the configuration.
func days(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return d.String()
}
