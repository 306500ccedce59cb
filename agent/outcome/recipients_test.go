package outcome

import "testing"

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
