package outcome

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

var born = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// policy is the shipped default.
func policy() Policy {
	return Policy{
		Retry:  []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour},
		Expire: 5 * 24 * time.Hour,
	}
}

// sample is a reply and what is to be made of it.
type sample struct {
	stage    Stage
	code     int
	enhanced string
	text     string

	class  Class
	action Action
	sig    elastic.Kind
}

// Replies as servers give them.
var replies = []sample{
	// Addresses.
	{Rcpt, 550, "5.1.1", "<x@example.com>: Recipient address rejected: User unknown in virtual mailbox table", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.1", "The email account that you tried to reach does not exist. Please try double-checking the recipient's email address for typos - gsmtp", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.10", "RESOLVER.ADR.RecipientNotFound; Recipient x@example.com not found by SMTP address lookup", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.5.0", "Requested action not taken: mailbox unavailable (S2017062302).", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Requested action not taken: mailbox unavailable", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "No such user here", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Unrouteable address", ClassUserUnknown, Bounce, elastic.Accepted},
	{Data, 554, "", "delivery error: dd This user doesn't have a yahoo.com account (x@yahoo.com) [0] - mta1.mail.ne1.yahoo.com", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.7.0", "<blacklist@example.com>: no such mailbox", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 450, "4.1.1", "<x@example.com>: Recipient address rejected: unverified address: User unknown", ClassUserUnknown, Retry, elastic.Accepted},
	{Rcpt, 550, "5.1.2", "Host unknown (Name server: host not found)", ClassHostUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Domain does not exist", ClassHostUnknown, Bounce, elastic.Accepted},
	{Rcpt, 551, "5.1.6", "Mailbox has moved, please try x@example.org", ClassHasMoved, Bounce, elastic.Accepted},
	{Rcpt, 551, "", "User not local; please try <x@example.org>", ClassHasMoved, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.2.1", "The email account that you tried to reach is disabled. - gsmtp", ClassSuspended, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Mailbox disabled", ClassSuspended, Bounce, elastic.Accepted},
	{Rcpt, 552, "5.2.2", "The email account that you tried to reach is over quota. - gsmtp", ClassMailboxFull, Bounce, elastic.Accepted},
	{Rcpt, 452, "4.2.2", "The email account that you tried to reach is over quota and inactive. - gsmtp", ClassMailboxFull, Retry, elastic.Accepted},
	{Rcpt, 552, "", "Mailbox is full: spam@example.com", ClassMailboxFull, Bounce, elastic.Accepted},
	{Data, 550, "5.2.3", "Message length exceeds administrative limit", ClassSizeLimit, Bounce, elastic.Accepted},
	{Mail, 552, "5.3.4", "Message size exceeds fixed limit", ClassTooBig, Bounce, elastic.Accepted},
	{Data, 552, "", "Message size exceeds maximum permitted", ClassTooBig, Bounce, elastic.Accepted},

	// Too many connections.
	{Connect, 421, "4.7.0", "mx.example.com Error: too many connections from 192.0.2.7", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "", "Too many concurrent SMTP connections; please try again later.", ClassConnections, Retry, elastic.Refused},
	{Connect, 554, "", "Too many connections from your host", ClassConnections, Retry, elastic.Refused},
	{Mail, 421, "4.3.2", "The maximum number of concurrent connections has exceeded a limit, closing transmission channel", ClassConnections, Retry, elastic.Refused},
	{Rcpt, 451, "4.7.1", "Trop de connexions, veuillez verifier votre configuration", ClassConnections, Retry, elastic.Refused},
	{Data, 421, "", "RP-001 The mail server IP connecting to the server has exceeded the maximum number of connections allowed", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "4.3.2", "Service not available", ClassSystem, Retry, elastic.Refused},
	{Connect, 421, "", "mx.example.com Service not available, closing transmission channel", ClassSystem, Retry, elastic.Refused},
	{Mail, 421, "4.3.2", "System not accepting network messages", ClassSystem, Retry, elastic.Refused},
	{Mail, 421, "4.7.0", "Max message per connection reached, closing transmission channel", ClassConnections, Retry, elastic.Closed},
	{Mail, 452, "4.3.2", "Maximum number of messages per connection exceeded", ClassConnections, Retry, elastic.Closed},

	// Too fast.
	{Data, 421, "4.7.28", "[192.0.2.7      15] Our system has detected an unusual rate of unsolicited mail originating from your IP address. - gsmtp", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 421, "4.7.0", "[192.0.2.7] Gmail has detected an unusual rate of mail, slow down", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 421, "4.7.0", "[TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints - 4.16.55.1", ClassRateLimited, Retry, elastic.RateRefused},
	{Connect, 421, "4.7.0", "[TS02] Messages from 192.0.2.7 temporarily deferred", ClassRateLimited, Retry, elastic.Refused},
	{Rcpt, 451, "4.7.650", "The mail server [192.0.2.7] has been temporarily rate limited due to IP reputation.", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 451, "4.7.500", "Access denied, please come back", ClassRateLimited, Retry, elastic.RateRefused},
	{Mail, 451, "4.7.500", "Server busy. Please try again later from [192.0.2.7].", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 452, "4.3.1", "Too many messages, slow down", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 550, "", "Ip frequency limited. http://service.mail.qq.com/", ClassRateLimited, Retry, elastic.RateRefused},
	{Mail, 554, "5.7.1", "Rate limit exceeded", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 451, "4.7.1", "Service unavailable - try again later", ClassSystem, Retry, elastic.Accepted},
	{Rcpt, 450, "4.2.1", "The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered. - gsmtp", ClassRateLimited, Retry, elastic.Accepted},
	{Rcpt, 450, "4.2.1", "The user you are trying to contact is receiving mail too quickly. - gsmtp", ClassRateLimited, Retry, elastic.Accepted},
	{Rcpt, 421, "4.7.1", "Excessive volume to one mailbox", ClassRateLimited, Retry, elastic.Accepted},
	{Rcpt, 452, "4.5.3", "Error: too many recipients", ClassTooManyRecipients, Retry, elastic.Accepted},
	{Rcpt, 552, "", "Too many recipients", ClassTooManyRecipients, Retry, elastic.Accepted},
	{Rcpt, 451, "4.3.0", "Multiple destination domains per transaction is unsupported. Please try again. - gsmtp", ClassProtocol, Retry, elastic.Accepted},
	{Rcpt, 450, "4.2.0", "<x@example.com>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/", ClassGreylisted, Retry, elastic.Accepted},
	{Rcpt, 451, "4.7.1", "Greylisting in action, please come back later", ClassGreylisted, Retry, elastic.Accepted},
	{Rcpt, 451, "4.7.1", "Please try again later", ClassGreylisted, Retry, elastic.Accepted},

	// Distrust of the address, the domain, the message.
	{Connect, 554, "5.7.1", "Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org", ClassReputation, Retry, elastic.Failed},
	{Rcpt, 554, "5.7.1", "Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org; https://www.spamhaus.org/sbl/", ClassReputation, Retry, elastic.Accepted},
	{Mail, 550, "5.7.1", "Unfortunately, messages from [192.0.2.7] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).", ClassReputation, Retry, elastic.Accepted},
	{Rcpt, 550, "5.7.606", "Access denied, banned sending IP [192.0.2.7]", ClassReputation, Retry, elastic.Accepted},
	{Mail, 553, "5.7.1", "[BL21] Connections will not be accepted from 192.0.2.7, because the ip is in Spamhaus's list", ClassReputation, Retry, elastic.Accepted},
	{Data, 421, "4.7.0", "[192.0.2.7] Our system has detected that this message is suspicious due to the very low reputation of the sending domain.", ClassReputation, Retry, elastic.RateRefused},
	{Data, 550, "5.7.26", "Your email has been blocked because the sender is unauthenticated. Gmail requires all senders to authenticate with either SPF or DKIM.", ClassAuthentication, Bounce, elastic.Accepted},
	{Data, 421, "4.7.27", "Your email has been rate limited because SPF authentication didn't pass for this message.", ClassAuthentication, Retry, elastic.Lost},
	{Data, 550, "5.7.515", "Access denied, sending domain EXAMPLE.COM doesn't meet the required authentication level.", ClassAuthentication, Bounce, elastic.Accepted},
	{Data, 550, "5.7.1", "Email rejected per DMARC policy for example.com", ClassAuthentication, Bounce, elastic.Accepted},
	{Connect, 550, "5.7.1", "Client host rejected: cannot find your reverse hostname", ClassAuthentication, Retry, elastic.Failed},
	{Data, 550, "5.7.1", "Our system has detected that this message is likely unsolicited mail.", ClassContent, Bounce, elastic.Accepted},
	{Data, 554, "5.7.1", "Message rejected as spam by Content Filtering", ClassContent, Bounce, elastic.Accepted},
	{Data, 554, "5.6.0", "Message contains bare LF", ClassContent, Bounce, elastic.Accepted},
	{Data, 554, "", "5.7.1 This message contains a virus (Eicar-Test-Signature)", ClassContent, Bounce, elastic.Accepted},
	{Mail, 550, "5.1.8", "<x@example.com>: Sender address rejected: Domain not found", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 554, "5.7.1", "<x@example.com>: Relay access denied", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.7.1", "Access denied", ClassPolicy, Bounce, elastic.Accepted},
	{Data, 554, "5.7.1", "Reject due to policy restrictions.", ClassPolicy, Bounce, elastic.Accepted},
	{Mail, 530, "5.7.0", "Must issue a STARTTLS command first", ClassTLS, Retry, elastic.Accepted},
	{Rcpt, 550, "5.7.10", "Encryption needed", ClassTLS, Retry, elastic.Accepted},
	{Data, 421, "4.7.29", "Your email has been rate limited because this message wasn't sent over a TLS connection.", ClassTLS, Retry, elastic.Lost},
	{TLS, 454, "4.7.0", "TLS not available due to local problem", ClassTLS, Retry, elastic.Failed},
	{TLS, 502, "5.5.1", "Command not implemented", ClassTLS, Retry, elastic.Failed},

	// The receiver's troubles, and what nothing tells.
	{Connect, 554, "", "mx.example.com", ClassReputation, Retry, elastic.Failed},
	{Connect, 450, "", "try later", ClassSystem, Retry, elastic.Failed},
	{Mail, 451, "4.3.0", "Temporary lookup failure", ClassSystem, Retry, elastic.Accepted},
	{Rcpt, 451, "", "Temporary local problem - please try later", ClassSystem, Retry, elastic.Accepted},
	{Mail, 452, "4.3.1", "Insufficient system storage", ClassSystem, Retry, elastic.Accepted},
	{Data, 451, "4.4.2", "Timeout waiting for data", ClassNetwork, Retry, elastic.Accepted},
	{Data, 421, "4.4.2", "mx.example.com Error: timeout exceeded", ClassNetwork, Retry, elastic.Lost},
	{Rcpt, 501, "5.1.3", "Bad recipient address syntax", ClassPolicy, Bounce, elastic.Accepted},
	{Mail, 555, "5.5.4", "Unsupported option: SIZE=1", ClassProtocol, Bounce, elastic.Accepted},
	{Mail, 503, "", "Bad sequence of commands", ClassProtocol, Bounce, elastic.Accepted},
	{Data, 554, "", "Transaction failed", ClassUndefined, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.0.0", "Rejected", ClassUndefined, Bounce, elastic.Accepted},
	{Data, 354, "", "Go on", ClassProtocol, Retry, elastic.Accepted},
	{Data, 250, "2.0.0", "Ok: queued as 4XyZ", ClassNone, Deliver, elastic.Accepted},
}

func TestReadsReplies(t *testing.T) {
	t.Parallel()
	for _, x := range slices.Concat(replies, moreReplies) {
		t.Run(fmt.Sprint(x.code, " ", x.enhanced, " ", x.text), func(t *testing.T) {
			t.Parallel()
			d := policy().Decide(born, Attempt{Stage: x.stage, Code: x.code, Enhanced: x.enhanced, Text: x.text, Born: born})
			if d.Class != x.class || d.Action != x.action || d.Signal != x.sig {
				t.Errorf("class %v, action %v, signal %v; want %v, %v, %v",
					d.Class, d.Action, d.Signal, x.class, x.action, x.sig)
			}
		})
	}
}

func TestThereAreEnoughReplies(t *testing.T) {
	t.Parallel()
	if n := len(replies) + len(moreReplies); n < 150 {
		t.Errorf("%d replies", n)
	}
}
