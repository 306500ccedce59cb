package breaker

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// The admin is told by a mail through the host MTA, of all that was held since the last one,
// and at most once in mailEvery, also over restarts. It is a report of our own as delivery
// reports are: from the null sender, so nothing answers it (RFC 3834 section 2), to the
// hand-back relay, behind which the milter diverts nothing. Names of streams are whatever a
// sender chose, so they stand in the body alone, quoted and in ASCII.

const (
	// mailEvery is the least time between two mails.
	mailEvery = time.Hour
	// maxTold is how many streams one mail names, and maxName the octets of each name.
	maxTold = 50
	maxName = 150
)

// tell sends a mail if there is something to tell and the last one is long enough ago. What
// cannot be sent is told with the next look.
func (b *Breaker) tell(now time.Time) {
	b.mu.Lock()
	policy, list, missed := b.policy, b.untold, b.missed
	if policy.Notify == "" {
		b.untold, b.missed = nil, 0
	}
	// A clock that was set back must not keep the admin without mail for longer.
	wait := now.Sub(b.mailed) < mailEvery && !b.mailed.After(now)
	if policy.Notify == "" || len(list) == 0 || wait {
		b.mu.Unlock()
		return
	}
	b.untold, b.missed, b.mailed, b.dirty = nil, 0, now, true
	b.mu.Unlock()
	if err := b.o.Post(compose(&policy, list, missed, now)); err != nil {
		b.o.Log.Error("no mail tells the admin what the breaker holds; it is tried again", "err", err)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.untold, b.missed = append(list, b.untold...), missed+b.missed
		b.mailed = now.Add(time.Minute - mailEvery)
	}
}

// compose makes the mail.
func compose(p *Policy, list []Held, missed int, now time.Time) (*spool.Envelope, []byte) {
	var body strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&body, format+"\r\n", args...) }
	line("Millrace on %s holds mail of these streams at one provider each. Mail to", p.Hostname)
	line("others, and of other streams, goes on. See to the cause, then let it go on")
	line("with the command below, or take the mail out of the queue (millrace --help).")
	for i := range list {
		h := &list[i]
		line("")
		line("stream    %s", quoted(h.Stream))
		line("provider  %s", quoted(h.Provider))
		line("since     %s", h.At.UTC().Format(time.RFC3339))
		line("reason    %s", quoted(h.Reason))
		line("          millrace resume --queue %s --stream ...", quoted(h.Provider))
	}
	if missed > 0 {
		line("")
		line("and %d more.", missed)
	}
	line("")
	line("millrace brakes lists all. At most one such mail is sent in an hour; notify")
	line("under [breaker] says to whom, and \"\" sends none.")
	sum := fnv.New64a()
	sum.Write([]byte(body.String()))
	head := strings.Join([]string{
		"Date: " + now.Format(time.RFC1123Z),
		"From: Millrace <MAILER-DAEMON@" + p.Hostname + ">",
		"To: <" + p.Notify + ">",
		"Subject: Millrace holds mail: " + streams(len(list)+missed),
		fmt.Sprintf("Message-ID: <%s.breaker.%016x@%s>", now.UTC().Format("20060102150405"), sum.Sum64(), p.Hostname),
		"Auto-Submitted: auto-generated", // RFC 3834 section 5
		"MIME-Version: 1.0",
		"Content-Type: text/plain; charset=us-ascii",
		"", "",
	}, "\r\n")
	e := &spool.Envelope{Origin: spool.Report, Recipients: []spool.Recipient{{Address: p.Notify}}, Arrived: now, ByHost: p.Hostname}
	return e, []byte(head + body.String())
}

func streams(n int) string {
	if n == 1 {
		return "1 stream"
	}
	return strconv.Itoa(n) + " streams"
}

// quoted is a text of others in printable ASCII, of bounded length.
func quoted(s string) string {
	q := strconv.QuoteToASCII(printable.Shorten(s, maxName))
	return q[1 : len(q)-1]
}
