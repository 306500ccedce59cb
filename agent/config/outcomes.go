package config

// Outcomes configures what the agent keeps of what became of mail, for "millrace history"
// and the charts. It is in state_directory, in SQLite databases: millrace-events(5).
type Outcomes struct {
	// Keep is how long every attempt and its reply is kept, by recipient; "" keeps none, and
	// no address.
	// A million attempts take some 105 MB; what was kept longer before is removed. The
	// millrace.toml of a new install says "7d".
	// Default: "".
	Keep Age `toml:"keep"`
	// KeepTotals is how long counts without addresses are kept, by stream, queue, site and
	// outcome: of five minutes for two days, of an hour for 35, then of a day; "" keeps none,
	// and the daily report, millrace report --mail, has no numbers.
	// The millrace.toml of a new install says "400d". Default: "".
	KeepTotals Age `toml:"keep_totals"`
	// MaxSize is the size in bytes of all of it; above it, and with less than [spool]
	// min_free on the file system, the oldest day goes. Beside it a log of events takes
	// up to 256 MiB. 0 is no limit. Default: "2GiB".
	MaxSize Size `toml:"max_size"`
	// Recipients is "plain", "hashed" (by a key in state_directory: who knows an address
	// finds what became of it, and nobody can list addresses) or "none". Replies are
	// kept without the address then. What is there already stays as it is, until its day
	// goes. Default: "plain", and "hashed" where [log] recipients is false.
	Recipients OutcomeRecipients `toml:"recipients"`
}

// OutcomeRecipients says how recipients of outcomes are kept.
type OutcomeRecipients string

// The ways to keep recipients; "" is the default.
const (
	RecipientsPlain  OutcomeRecipients = "plain"
	RecipientsHashed OutcomeRecipients = "hashed"
	RecipientsNone   OutcomeRecipients = "none"
)

// On reports whether anything is kept.
func (o *Outcomes) On() bool { return o.Keep > 0 || o.KeepTotals > 0 }

// Offer is what a host is told where nothing is kept; "" if something is. It is no
// finding: to keep nothing is as good.
func (o *Outcomes) Offer() string {
	if o.On() {
		return ""
	}
	return `what became of mail is not kept: with keep = "7d" and keep_totals = "400d" under [outcomes], "millrace history" tells what became of an address or a message, and the charts reach back`
}
