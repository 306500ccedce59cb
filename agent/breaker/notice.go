package breaker

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/agent/spool"
)

// The admin is told by a mail through the host MTA, of all that was held since the last one,
// and at most once in mailEvery, also over restarts. It is a report of our own as delivery
// reports are: from the null sender, so nothing answers it (RFC 3834 section 2), to the
// hand-back relay, behind which the milter diverts nothing. Names of streams are whatever a
// sender chose, so they stand in the body alone, quoted and in ASCII.

const (
	// mailEvery is the least time between two mails, retryMail to the next try of one that
	// could not be sent.
	mailEvery = time.Hour
	retryMail = time.Minute
	// maxName is how many octets of a name a mail has.
	maxName = 150
)

// hold names what is held: one that was resumed and is held again is another.
type hold struct {
	Stream   string `json:"stream"`
	Provider string `json:"provider"`
	Since    int64  `json:"since"` // nanoseconds since 1970
}

func holdOf(p *control.Pause) hold {
	return hold{p.Filter.Stream, p.Filter.Queue, p.Since.UnixNano()}
}

// tell sends a mail if there is something to tell and the last one is long enough ago. What was
// resumed meanwhile is not told, and what is held is told once, whatever the clock shows: the
// orders have it over restarts, too.
func (b *Breaker) tell(now time.Time) {
	b.mu.Lock()
	policy, mailed, retry, told := b.policy, b.mailed, b.retry, b.told
	b.mu.Unlock()
	if mailed.After(now) {
		mailed = time.Time{} // a clock that was set back keeps no mail from the admin
	}
	if retry.Sub(now) > retryMail {
		retry = time.Time{}
	}
	if policy.Notify == "" || now.Sub(mailed) < mailEvery || now.Before(retry) {
		return
	}
	held := b.o.Held()
	list := slices.DeleteFunc(slices.Clone(held), func(p control.Pause) bool { return told[holdOf(&p)] })
	if len(list) == 0 {
		return
	}
	err := b.o.Post(compose(&policy, list, now))
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.retry = now.Add(retryMail)
		b.o.Log.Error("no mail tells the admin what the breaker holds; it is tried again", "err", err)
		return
	}
	b.told = make(map[hold]bool, len(held)) // what was resumed is forgotten
	for i := range held {
		b.told[holdOf(&held[i])] = true
	}
	b.mailed, b.dirty, b.urgent = now, true, true
}

// compose makes the mail.
func compose(p *Policy, list []control.Pause, now time.Time) (*spool.Envelope, []byte) {
	var body strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&body, format+"\r\n", args...) }
	line("Millrace on %s holds mail of these streams at one provider each. Mail to", p.Hostname)
	line("others, and of other streams, goes on. See to the cause, then let it go on")
	line("with the command below, or take the mail out of the queue (millrace --help).")
	for i := range list {
		h := &list[i]
		line("")
		line("stream    %s", quoted(h.Filter.Stream))
		line("provider  %s", quoted(h.Filter.Queue))
		line("since     %s", h.Since.UTC().Format(time.RFC3339))
		line("reason    %s", h.Reason)
		line("          millrace resume --queue %s STREAM", quoted(h.Filter.Queue))
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
		"Subject: Millrace holds mail: " + streams(len(list)),
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
