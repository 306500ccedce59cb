package outcome

import (
	"testing"

	"github.com/millrace/millrace/agent/elastic"
)

// The first recipient of a transaction is none too many for its message. On a connection that has
// taken mail, that is over; on a new one, it is a limit in time.
func TestFirstRecipientTooManyIsAboutTheConnection(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code           int
		enhanced, text string
		first, used    bool
		class          Class
		signal         elastic.Kind
	}{
		{452, "4.5.3", "Too many recipients", true, true, ClassConnections, elastic.Closed},
		{552, "5.5.3", "Too many recipients", true, true, ClassConnections, elastic.Closed},
		{421, "4.5.3", "Too many recipients", true, true, ClassConnections, elastic.Closed},
		{452, "", "maximum recipients reached", true, true, ClassConnections, elastic.Closed},
		{452, "4.5.3", "", true, true, ClassConnections, elastic.Closed},
		{452, "4.5.3", "Too many recipients", true, false, ClassRateLimited, elastic.RateRefused},
		{452, "4.5.3", "Too many recipients", false, true, ClassTooManyRecipients, elastic.Accepted},
		{452, "4.5.3", "Too many recipients in the last hour", true, true, ClassRateLimited, elastic.RateRefused},
		{450, "4.7.1", "Error: too many recipients from 192.0.2.7", true, true, ClassRateLimited, elastic.RateRefused},
		{452, "4.3.1", "Insufficient system storage", true, true, ClassSystem, elastic.Accepted},
	} {
		d := policy().Decide(born, Attempt{Stage: Rcpt, Code: tt.code, Enhanced: tt.enhanced, Text: tt.text, Born: born, First: tt.first, Used: tt.used})
		if d.Class != tt.class || d.Signal != tt.signal || d.Action != Retry {
			t.Errorf("%d %s %s, first %v, used %v: %v, signal %v, action %v", tt.code, tt.enhanced, tt.text, tt.first, tt.used, d.Class, d.Signal, d.Action)
		}
	}
}

func TestRecipientsOfOneMessageAreNotThoseOfAnHour(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		code           int
		enhanced, text string
		want           bool
	}{
		{552, "5.5.3", "", true},
		{452, "4.5.3", "Error: too many recipients", true},
		{452, "4.5.3", "Your message has too many recipients. For more information see https://support.example/sending", true},
		{550, "5.5.3", "Too many recipients", true},
		{452, "", "Too many recipients", true},
		{552, "", "maximum number of recipients exceeded", true},
		{452, "", "sorry, too many recipients (#5.5.3)", true},
		{452, "4.5.3", "Too many recipients in the last hour", false},
		{452, "4.5.3", "Too many recipients from your IP", false},
		{452, "4.5.3", "recipients per day exceeded", false},
		{452, "", "recipients quota exceeded, too many", false},
		{452, "4.3.1", "Insufficient system storage", false},
		{552, "5.2.2", "mailbox full", false},
		{250, "2.1.5", "recipients ok, within the limit", false},
	} {
		if got := policy().Decide(born, Attempt{Stage: Rcpt, Code: tt.code, Enhanced: tt.enhanced, Text: tt.text, Born: born}).Class == ClassTooManyRecipients; got != tt.want {
			t.Errorf("%d %s %s: %v", tt.code, tt.enhanced, tt.text, got)
		}
	}
}
