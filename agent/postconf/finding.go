package postconf

import (
	"fmt"
	"slices"

	"github.com/millrace/millrace/agent/config"
)

// Severity says what a finding means for an admin.
type Severity int

// The severities.
const (
	Warning       Severity = iota // worth a look; nothing may be wrong
	Contradiction                 // mail would go wrong
	Accepted                      // a bypass that [milter] accept_bypass names
)

// Finding is one thing that does not fit.
type Finding struct {
	Severity Severity
	Where    string // "main.cf", "master.cf: submission/inet"
	Wrong    string
	Remedy   string // "" with Accepted
	// Bypass is the parameter, if the finding is a hard stop: a setting that
	// diverted mail does not meet. One of config.Bypasses.
	Bypass string
}

// String is the line that an admin reads.
func (f Finding) String() string {
	if f.Severity == Accepted {
		return fmt.Sprintf("%s: %s (accept_bypass has %s)", f.Where, f.Wrong, f.Bypass)
	}
	return f.Where + ": " + f.Wrong + "; remedy: " + f.Remedy
}

// hardStop is the finding that a parameter makes Postfix do what diverted mail
// does not meet. While the milter only observes nothing is diverted, so it is a
// warning; it is none any more when the admin has said that he knows.
func hardStop(c *config.Config, parameter, where, wrong, remedy string) Finding {
	f := Finding{Severity: inDivert(c), Where: where, Wrong: wrong, Bypass: parameter}
	if slices.Contains(c.Milter.AcceptBypass, parameter) {
		f.Severity = Accepted
		return f
	}
	f.Remedy = fmt.Sprintf("%s; if diverted mail needs none of it, add %q to [milter] accept_bypass", remedy, parameter)
	return f
}
