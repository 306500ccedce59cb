package config

import (
	"fmt"
	"net/mail"
	"strconv"
	"strings"
)

// Breaker holds a stream at a provider, and there only, when its hard bounces or complaints
// pass a bar with statistical confidence, over a hundred recipients at least. A provider is a
// [[queue]]; domains that none lists are one, "general". What is counted is the mail of a stream
// that arrived on one day (UTC); a crash of the agent costs the counts of its last moments. What
// is held waits until "millrace resume --queue QUEUE STREAM"; then the breaker leaves that stream
// alone there for seven days. A queue that gets another name is another provider.
type Breaker struct {
	// HardBounces is the share of recipients whose addresses the provider calls useless.
	// Amazon SES reviews senders from 5% on and may stop them at 10% (its developer guide,
	// "Reputation metrics messages"). "" is no bar. The millrace.toml of a new install says
	// "5%". Default: "".
	HardBounces Percent `toml:"hard_bounces"`
	// Complaints is the share of recipients that complained, by feedback reports that count
	// (see [feedback]). Google's and Yahoo's rules for senders want less than 0.3%. Google
	// itself sends no such reports, so there bounces are all that is known. "" is no bar. The
	// millrace.toml of a new install says "0.3%". Default: "".
	Complaints Percent `toml:"complaints"`
	// Notify is whom a mail by the host's MTA tells of what is held, once an hour at most; ""
	// is nobody. Default: "postmaster".
	Notify string `toml:"notify"`
}

// The sources of the bars of a new install are
// docs.aws.amazon.com/ses/latest/dg/reputationdashboardmessages.html (bounces),
// support.google.com/a/answer/81126 and senders.yahooinc.com/best-practices (complaints).

// Offer is what a host is told where nothing is judged; "" if something is.
func (b *Breaker) Offer() string {
	if b.HardBounces > 0 || b.Complaints > 0 {
		return ""
	}
	return `no stream is held for its bounces or complaints: with hard_bounces = "5%" and complaints = "0.3%" under [breaker] one that is above for certain is, at that provider`
}

// Percent is a share of 1; 0 is none. Written "5%", "0.3%".
type Percent float64

// maxBar is the highest bar: three times as much must still be a share.
const maxBar = 0.3

// ParsePercent reads "5%", "0.3%", or "" for none.
func ParsePercent(s string) (Percent, error) {
	if s == "" {
		return 0, nil
	}
	number, isPercent := strings.CutSuffix(s, "%")
	x, err := strconv.ParseFloat(number, 64)
	switch {
	case err != nil || !isPercent || strings.Trim(number, "0123456789.") != "":
		return 0, fmt.Errorf("%q is not a share; remedy: write it like \"5%%\" or \"0.3%%\", or \"\" for none", s)
	case x < 0.01 || x > 100*maxBar:
		return 0, fmt.Errorf("%q is out of range; remedy: write a share from 0.01%% to %.0f%%, or \"\" for none", s, 100*maxBar)
	}
	return Percent(x / 100), nil
}

func (l *loader) checkBreaker(b *Breaker) {
	if b.Notify == "" {
		return
	}
	address := b.Notify
	if !strings.Contains(address, "@") {
		address += "@localhost" // the host's MTA adds its own domain
	}
	a, err := mail.ParseAddress("<" + address + ">")
	if err != nil || a.Address != address {
		l.fail("breaker.notify", remedy(fmt.Sprintf("notify: %q is not a mail address", b.Notify), `write it like "postmaster" or "ops@example.com", or "" for no mail`))
	}
}
