package watch

import (
	"fmt"

	"github.com/millrace/millrace/agent/maillog"
	"github.com/millrace/millrace/agent/printable"
)

// The answer of /readyz is for every local user: counts and the names of sites and rules,
// no mail address and no words of a receiver. Names of streams are whatever who sends
// chose, addresses too; an admin finds them in millrace pauses, with the reply behind each.

const (
	maxReasons = 20  // lines
	maxReason  = 500 // octets of a line
)

// public makes reasons fit to be told to everybody, and bounds them.
func public(reasons []string) []string {
	list := make([]string, 0, min(len(reasons), maxReasons+1))
	for i, r := range reasons {
		if i == maxReasons {
			return append(list, fmt.Sprintf("and %d more", len(reasons)-i))
		}
		list = append(list, printable.Shorten(maillog.WithoutLocalParts(r), maxReason))
	}
	return list
}
