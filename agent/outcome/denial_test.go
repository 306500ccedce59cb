package outcome

import (
	"strings"
	"testing"
)

// What does not exist may be anything: only what was named as the recipient's address is
// one, and who says "you" or "your" speaks of us.
func TestWhatIsNotTheRecipientIsNotHard(t *testing.T) {
	t.Parallel()
	for _, text := range strings.Split(strings.TrimSpace(`
Message not found
Unknown error
unknown reason
Unknown command
unknown virus
URL not found
Feature not known
no route to host
no user policy permits this
No user may send more than 10 messages
no recipient may get more than 5 mails per hour
no mailbox space
your host is not known to us
Your IP is not registered
the address 192.0.2.7 is unknown
IP address 192.0.2.7 does not exist in DNS
domain near.test not found
We do not accept mail for far.test
Your account does not exist
you are not a valid user
Return address unknown
Reply address does not exist
Sender callout: user unknown
The user does not exist in our whitelist
This recipient does not accept mail from unknown senders
unknown user name or bad password
invalid user credentials
Mailbox access refused by a rule
NOACTIVITY: no recipient activity since January
5.1.1 <r@far.test>: Recipient address rejected: unverified address: mail for far.test loops back to myself
5.1.1 <r@far.test>: Recipient address rejected: undeliverable address: mail for far.test loops back to myself
5.1.1 <r@far.test>: Recipient address rejected: unverified address: connect to mx.far.test[192.0.2.2]:25: Connection timed out
5.1.1 <r@far.test>: Recipient address rejected: unverified address: connect to mx.far.test[192.0.2.2]:25: Connection refused
5.1.1 <r@far.test>: Recipient address rejected: unverified address: Name service error for name=far.test type=MX: Host not found, try again
5.7.1 no such user
`), "\n") {
		for _, stage := range []Stage{Mail, Rcpt, Data} {
			a := Attempt{Stage: stage, Code: 550, Text: text, To: "r@far.test", Born: born}
			if status, rest, _ := strings.Cut(text, " "); IsStatus(status) {
				a.Enhanced, a.Text = status, rest
			}
			if d := policy().Decide(born, a); d.Hard {
				t.Errorf("%q at %v is hard: %v by %s", text, stage, d.Class, d.Rule)
			}
		}
	}
}

// That an address does not exist is read in words that no table lists as a phrase.
func TestDenialOfAnAddress(t *testing.T) {
	t.Parallel()
	for _, text := range strings.Split(strings.TrimSpace(`
The account could not be found
no such local mailbox
There is no account of that name
not one user: this is not a user
This recipient is not currently known
The email account that you tried to reach does not exist
no mail box available for this user
unknown domain or unknown recipient
Diese Mailbox existiert nicht
Benutzer wurde nicht gefunden
L'utente non esiste
Cette adresse n'existe pas
Endereco nao encontrado
La casilla no existe
Skrzynka nie istnieje
Получатель не найден
Schranka neexistuje
`), "\n") {
		if d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 550, Text: text, To: "r@far.test", Born: born}); !d.Hard || d.Class != ClassUserUnknown {
			t.Errorf("%q: hard %v, %v by %s", text, d.Hard, d.Class, d.Rule)
		}
	}
}
