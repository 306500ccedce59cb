package outcome

import (
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/elastic"
)

// readings are the shipped ways to read a reply. The first that fits is taken, so their
// order matters, and is this:
//
//  1. codes that one receiver or one registry defines: nothing else can be meant;
//  2. throttles, the narrower first: so many on one connection, recipients of one
//     message, of one mailbox, connections, greylisting, all of a site;
//  3. what is said of us: TLS, authentication, distrust, relaying, our sender. It comes
//     before all that is said of the recipient, as "sender address rejected: user
//     unknown" speaks of ours;
//  4. what is said of the recipient's mailbox: full, too small, disabled, moved, unknown;
//  5. what is said of the message;
//  6. trouble of the receiver's system, protocol, policy, in general words.
//
// A status that tells something by itself (status.go) is asked after these, and the code
// last. Each reading has a sample, which a test gives to it: it reaches that reading and
// none before. The table is never written to.
var readings = []rule{
	// 1. Codes.
	{name: "google-authentication", hosts: google, status: [][3]int{{7, 20, 27}, {7, 30, 32}, {7, 40, 40}}, class: ClassAuthentication,
		sample: "data *.google.com 421 4.7.27 Your email has been rate limited because SPF authentication didn't pass for this message."},
	{name: "google-rate", hosts: google, status: [][3]int{{7, 28, 28}}, class: ClassRateLimited,
		sample: "data *.google.com 421 4.7.28 Gmail has detected an unusual rate of mail originating from your SPF domain"},
	{name: "google-tls", hosts: google, status: [][3]int{{7, 29, 29}}, class: ClassTLS,
		sample: "data *.google.com 421 4.7.29 Your email has been rate limited because this message wasn't sent over a TLS connection."},
	{name: "domain-authentication", status: [][3]int{{7, 20, 26}, {7, 509, 509}, {7, 515, 515}}, class: ClassAuthentication, // RFC 7372; Microsoft
		sample: "data - 550 5.7.26 Multiple authentication checks failed"},
	{name: "sender-null-mx", status: [][3]int{{7, 27, 27}}, none: nAuth, class: ClassPolicy, // RFC 7505 section 4.2
		sample: "mail - 550 5.7.27 Sender address has null MX"},
	{name: "mail-flood", status: [][3]int{{7, 28, 28}}, class: ClassRateLimited, // IANA's registry: mail flood detected
		sample: "data - 451 4.7.28 Mail flood detected"},
	{name: "arc", status: [][3]int{{7, 29, 29}}, none: nTLS, class: ClassAuthentication, // RFC 8617 section 7
		sample: "data - 550 5.7.29 ARC validation failure"},
	{name: "banned-source", status: [][3]int{{7, 501, 503}, {7, 511, 511}, {7, 513, 513}, {7, 606, 649}, {7, 850, 899}}, class: ClassReputation, // Microsoft
		sample: "rcpt - 550 5.7.606 Access denied, banned sending IP [192.0.2.7]"},
	{name: "microsoft-tls", status: [][3]int{{4, 317, 317}, {7, 321, 325}}, class: ClassTLS,
		sample: "data - 550 5.7.323 tlsa-invalid: The domain failed DANE validation"},
	{name: "microsoft-helo", status: [][3]int{{7, 506, 506}}, class: ClassAuthentication,
		sample: "rcpt - 550 5.7.506 Access Denied, Bad HELO"},
	{name: "microsoft-rate", code: 5, status: [][3]int{{7, 508, 508}, {7, 700, 749}}, class: ClassRateLimited,
		sample: "rcpt - 550 5.7.705 Access denied, tenant has exceeded threshold"},
	{name: "null-mx-status", stages: afterMail, status: [][3]int{{1, 10, 10}}, any: nNullMX, class: ClassHostUnknown, // RFC 7505 section 4.2
		sample: "rcpt - 556 5.1.10 Domain does not accept email (null MX)"},
	{name: "unregistered-domain", status: [][3]int{{7, 750, 750}}, class: ClassPolicy, // Microsoft
		sample: "rcpt - 550 5.7.750 Service unavailable. Client blocked from sending from unregistered domains"},
	{name: "yahoo-blocked", any: nYahooBlock, class: ClassReputation,
		sample: "mail *.yahoodns.net 553 5.7.2 [TSS09] All messages from 192.0.2.7 will be permanently deferred"},
	{name: "yahoo-deferred", any: nYahooRate, class: ClassRateLimited,
		sample: "mail *.yahoodns.net 421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or user complaints"},
	{name: "netease-connections", any: nNetEaseConn, class: ClassConnections,
		sample: "connect *.netease.com 421 HL:ICC 163 mx10,please see http://mail.163.com/help/help_spam_16.htm"},
	{name: "netease-rate", any: nNetEaseRate, class: ClassRateLimited,
		sample: "mail *.netease.com 451 MI:SFQ 163 mx12,please see http://mail.163.com/help/help_spam_16.htm"},
	{name: "unknown-by-code", stages: afterMail, any: nCodeUnknown, class: ClassUserUnknown, // Sophos
		sample: "rcpt - 550 5.7.1 XGEMAIL_0011 Command rejected"},
	{name: "netease-listed", any: nNetEaseList, class: ClassReputation,
		sample: "mail *.netease.com 450 DT:RBL 163 mx3,please see http://mail.163.com/help/help_spam_16.htm"},

	{name: "sequence-status", code: 503, status: [][3]int{{5, 1, 1}}, none: nLogin, class: ClassProtocol,
		sample: "mail - 503 5.5.1 Not before HELO, by our policy"},
	{name: "sequence", code: 503, none: nLogin | nPolicy | nListed | nSpam | nRelay | nAuth | nRate | nSystem, class: ClassProtocol, // RFC 5321 section 4.2.2
		sample: "rcpt - 503 HELO first, please"},

	// 2. Throttles.
	{name: "messages-per-connection", all: nPerConn | nMessages, none: nPeriod, class: ClassConnections, sig: of(elastic.Closed),
		sample: "mail - 421 Max message per connection reached, closing transmission channel"},
	{name: "messages-kept", stages: afterMail, all: nFull | nTooMany, class: ClassMailboxFull,
		sample: "rcpt - 550 User has too many messages on the server."},
	{name: "destination-domains", all: nDomains, class: ClassProtocol, sig: of(elastic.Accepted),
		sample: "rcpt *.google.com 451 4.3.0 Multiple destination domains per transaction is unsupported. Please try again."},
	{name: "bad-recipients", all: nReputation | nRecipients, class: ClassReputation,
		sample: "rcpt - 550 5.7.1 Too many invalid recipients, your IP is blocked for an hour"},
	{name: "mailbox-rate", all: nOneBox, any: nRate | nPeriod | nTooMany | nLimit, none: nFull, class: ClassRateLimited, sig: of(elastic.Accepted),
		sample: "rcpt - 450 4.2.1 The user you are trying to contact is receiving mail too quickly"},
	{name: "mailbox-rate-status", status: [][3]int{{2, 1, 1}}, any: nOneBox, none: nDisabled, class: ClassRateLimited, sig: of(elastic.Accepted),
		sample: "rcpt - 450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered."},
	{name: "recipients-rate", all: nRecipients | nTooMany, any: nPeriod | nRate | nQuota | nSource, class: ClassRateLimited,
		sample: "rcpt - 452 4.5.3 Too many recipients received this hour"},
	{name: "recipients", all: nRecipients | nTooMany, none: nInvalid, class: ClassTooManyRecipients, sig: of(elastic.Accepted),
		sample: "rcpt - 452 4.5.3 Error: too many recipients"},
	{name: "recipients-limit-rate", all: nRecipients | nLimit, any: nPeriod | nRate | nQuota | nSource, none: nFull, class: ClassRateLimited,
		sample: "rcpt - 452 4.5.3 Recipients limit exceeded for this hour"},
	{name: "recipients-limit", stages: afterMail, all: nRecipients | nLimit, none: nInvalid | nFull | nSize | nDisk | nOneBox, class: ClassTooManyRecipients, sig: of(elastic.Accepted),
		sample: "rcpt - 452 maximum recipients reached"},
	{name: "connections", all: nConnections, any: nTooMany | nLimit, class: ClassConnections,
		sample: "connect - 421 4.7.0 mx.far.test Error: too many connections from 192.0.2.7"},
	{name: "greylisting", any: nGrey, class: ClassGreylisted,
		sample: "rcpt - 450 4.2.0 <r@far.test>: Recipient address rejected: Greylisted, please try again in 300 seconds"},
	{name: "errors", code: 421, all: nTooMany | nProtocol, none: nConnections | nRecipients | nRecipient | nSource, class: ClassProtocol,
		sample: "mail - 421 4.7.0 mx.far.test Error: too many errors"},

	// 3. About us.
	{name: "protocol-of-tls", status: [][3]int{{5, 0, 0}}, all: nTLS | nProtocol, class: ClassProtocol,
		sample: "mail - 454 4.5.0 SMTP protocol violation, no commands allowed to pipeline after STARTTLS"},
	{name: "host-takes-no-mail", stages: []Stage{Connect}, any: nTakesNone, class: ClassPolicy, // RFC 7504
		sample: "connect - 521 mx.far.test does not accept mail"},
	{name: "encryption-of-content", stages: []Stage{Data}, code: 4, all: nTLS | nSystem, class: ClassSystem, // TLS was over long before
		sample: "data - 421 Encryption failed - retry later"},
	{name: "tls", any: nTLS, none: nAuth, class: ClassTLS,
		sample: "mail - 530 5.7.0 Must issue a STARTTLS command first"},
	{name: "listed", any: nListed, none: nNotListed | nChoice, class: ClassReputation,
		sample: "rcpt - 554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using zen.spamhaus.org"},
	{name: "relaying", all: nRelay, any: nRefused | nPolicy | nDisabled | nNoDomain | nUnavailable, none: nReputation | nUnknown | nAuth, class: ClassPolicy,
		sample: "rcpt - 554 5.7.1 <r@far.test>: Relay access denied"},
	{name: "lines", all: nLines, any: nSize | nLimit | nForm, class: ClassContent,
		sample: "data - 500 Line limit exceeded"},
	{name: "spam-checks", stages: []Stage{Data}, all: nSpam | nAuth | nReverse, class: ClassContent, // advice, not a reason
		sample: "data - 554 5.7.1 Your message failed several antispam checks. Please check your SPF, HELO, PTR"},
	{name: "authentication", any: nAuth, class: ClassAuthentication,
		sample: "data - 550 5.7.1 Email rejected per DMARC policy for near.test"},
	{name: "command-order", stages: []Stage{Mail}, all: nProtocol, any: nSender | nReverse, none: nLogin | nInvalid, notStatus: [][3]int{{1, 0, 999}}, class: ClassProtocol,
		sample: "mail - 501 5.5.1 MAIL FROM already established"},
	{name: "authentication-of-content", stages: []Stage{Data}, any: nLogin, status: [][3]int{{7, 0, 0}}, class: ClassAuthentication, // who is at DATA needs no login
		sample: "data - 570 5.7.0 Authentication failed"},
	{name: "login", any: nLogin, none: nQuota | nForm, class: ClassPolicy,
		sample: "mail - 530 5.7.1 Authentication required"},
	{name: "host-identity", any: nReverse, class: ClassAuthentication,
		sample: "rcpt - 450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.7]"},
	{name: "rate", any: nRate, class: ClassRateLimited,
		sample: "mail - 450 4.7.1 Error: too much mail from 192.0.2.7"},
	{name: "reputation", any: nReputation, none: nDisabled, class: ClassReputation,
		sample: "connect - 554 Your access to this mail system has been rejected due to the sending MTA's poor reputation."},
	{name: "source-blocked", all: nSource | nBlocked, class: ClassReputation,
		sample: "connect - 550 Client host is blocked by us"},
	{name: "quota-at-mail", stages: []Stage{Mail, Connect}, any: nQuota, class: ClassRateLimited,
		sample: "mail - 452 Quota exceeded"},
	{name: "quota-of-sender", all: nQuota | nSender, class: ClassRateLimited,
		sample: "rcpt - 550 5.7.1 Quota of the sender is used up"},
	{name: "limit-in-time", all: nPeriod, any: nLimit | nQuota | nTooMany, class: ClassRateLimited,
		sample: "mail - 550 MAX RCPT TO DAILY LIMIT"},
	{name: "spam-of-source", stages: []Stage{Connect, Mail}, any: nSpam, class: ClassReputation, // no content was seen yet
		sample: "connect - 554 Too much spam from this IP"},
	{name: "spam-from-source", stages: []Stage{Rcpt}, all: nSpam | nSource, class: ClassReputation,
		sample: "rcpt - 550 Too much spam from your network"},
	{name: "choice", any: nChoice, none: nUnknown | nDisabled, class: ClassPolicy,
		sample: "rcpt - 550 5.7.1 Recipient doesn't want your mail"},
	{name: "sender", stages: []Stage{Mail, Rcpt, Data}, any: nSender, none: nSpam | nSystem, notStatus: [][3]int{{6, 0, 999}}, class: ClassPolicy,
		sample: "rcpt - 550 5.1.0 <b@near.test>: Sender address rejected: User unknown in virtual mailbox table"},
	{name: "sender-at-mail", stages: []Stage{Mail}, any: nUnknown | nInvalid | nNoDomain, none: nProtocol, class: ClassPolicy,
		sample: "mail - 553 near.test does not exist"},

	// 4. About the recipient.
	{name: "mailbox-full", stages: afterMail, any: nFull, notStatus: [][3]int{{3, 0, 2}}, class: ClassMailboxFull,
		sample: "rcpt - 552 5.1.1 5.2.2 sorry, final recipient mailbox is full (chkuser)"},
	{name: "quota", stages: afterMail, any: nQuota, class: ClassMailboxFull,
		sample: "data - 552 Error: quota exceeded"},
	{name: "message-for-mailbox", stages: afterMail, status: [][3]int{{2, 3, 3}}, any: nSize | nLimit | nMessage, class: ClassSizeLimit,
		sample: "data - 550 5.2.3 Message length exceeds administrative limit"},
	{name: "disabled", stages: afterMail, all: nDisabled, none: nSpam | nUnknown | nForm, class: ClassSuspended,
		sample: "rcpt - 550 5.2.1 The email account that you tried to reach is disabled."},
	{name: "moved", stages: afterMail, any: nMoved, class: ClassHasMoved,
		sample: "rcpt - 551 5.1.6 User has moved to r@other.test"},
	{name: "microsoft-unknown", stages: afterMail, code: 5, status: [][3]int{{4, 1, 1}}, all: nRefused, any: nRecipient | nRecipients, class: ClassUserUnknown,
		sample: "rcpt *.mail.protection.outlook.com 550 5.4.1 Recipient address rejected: Access denied."},
	{name: "domain-takes-no-mail", stages: []Stage{Rcpt}, all: nTakesNone | nDomain, none: nRecipient | nSender | nSource | nRelay | nPolicy, class: ClassHostUnknown,
		sample: "rcpt - 510 The domain does not accept mail"},
	{name: "null-mx", stages: afterMail, any: nNullMX, none: nDomain, class: ClassHostUnknown,
		sample: "rcpt - 556 Recipient address has null MX"},
	{name: "syntax-status", stages: []Stage{Rcpt}, status: [][3]int{{1, 3, 3}}, none: nUnknown, class: ClassPolicy,
		sample: "rcpt - 553 5.1.3 Invalid address format"},
	{name: "syntax-code", stages: []Stage{Rcpt}, code: 501, all: nRecipient | nInvalid, notStatus: [][3]int{{1, 1, 1}}, class: ClassPolicy, // RFC 5321 section 4.2.2
		sample: "rcpt - 501 Invalid RCPT TO address"},
	{name: "form-of-address", stages: []Stage{Rcpt}, any: nForm | nSize, all: nRecipient, none: nMessage | nQuota | nFull | nUnknown | nSpam, class: ClassPolicy,
		sample: "rcpt - 550 5.1.1 Recipient address length exceeds maximum"},
	{name: "form-of-domain", stages: []Stage{Rcpt}, all: nForm | nDomain, none: nMessage | nSpam | nSource | nSender, class: ClassPolicy,
		sample: "rcpt - 501 5.1.2 Malformed destination domain"},
	{name: "syntax-of-address", stages: afterMail, all: nRecipient | nProtocol | nInvalid, class: ClassPolicy,
		sample: "data - 550 Bad recipient, syntax error"},
	{name: "unverified", stages: afterMail, code: 4, any: nVerify, none: nUnknown, class: ClassSystem,
		sample: "rcpt - 450 4.1.1 <r@far.test>: Recipient address rejected: unverified address"},
	{name: "unknown-command", stages: afterMail, all: nProtocol | nUnnamed, class: ClassProtocol,
		sample: "data - 554 Unknown command"},
	{name: "no-recipients", stages: afterMail, all: nRecipients | nProtocol, class: ClassProtocol,
		sample: "data - 554 5.5.1 Error: no valid recipients"},
	{name: "unknown-from-us", stages: afterMail, all: nUnknown | nUnnamed | nSystem, class: ClassSystem,
		sample: "data - 551 5.3.0 Unknown error"},
	{name: "unknown", stages: afterMail, any: nUnknown, none: nLoop | nUnnamed | nForm | nDisk | nSpam | nPolicy | nTLS, class: ClassUserUnknown,
		sample: "rcpt - 550 5.1.1 <r@far.test>: Recipient address rejected: User unknown in local recipient table"},
	{name: "unknown-address", stages: afterMail, any: nUnknown, none: nLoop | nSource | nForm | nDisk | nSpam | nPolicy | nTLS, class: ClassUserUnknown,
		sample: "rcpt - 550 5.1.1 <r@far.test> unknown"},
	{name: "unrouteable-domain", stages: afterMail, status: [][3]int{{1, 2, 2}, {4, 4, 4}}, all: nDomain | nInvalid, none: nSource | nSender, class: ClassHostUnknown,
		sample: "rcpt - 550 5.4.4 Invalid domain"},
	{name: "invalid-domain", stages: []Stage{Rcpt}, status: [][3]int{{0, 0, 0}}, all: nDomain | nInvalid, none: nSource | nSender | nRecipient, class: ClassHostUnknown,
		sample: "rcpt - 550 Invalid domain"},
	{name: "no-domain", stages: afterMail, any: nNoDomain, none: nSource | nAgain, class: ClassHostUnknown,
		sample: "rcpt - 550 5.1.2 <r@far.test>... Host unknown (Name server: far.test: host not found)"},
	{name: "invalid", stages: afterMail, all: nRecipient | nInvalid, none: nSource | nSystem | nForm | nPolicy, class: ClassUserUnknown,
		sample: "rcpt - 550 5.1.1 <r@far.test>... Invalid recipient"},
	{name: "unavailable-at-data", stages: []Stage{Data}, code: 5, any: nUnavailable, class: ClassPolicy,
		sample: "data - 550 5.7.1 Requested action not taken: mailbox unavailable"},
	{name: "unavailable-by-policy", stages: []Stage{Rcpt}, code: 5, any: nUnavailable, status: [][3]int{{7, 0, 999}}, class: ClassPolicy,
		sample: "rcpt - 550 5.7.1 Requested action not taken: mailbox not available"},
	{name: "unavailable-by-mailbox", stages: afterMail, code: 5, any: nUnavailable, status: [][3]int{{2, 0, 1}}, none: nPolicy | nSender, class: ClassSuspended,
		sample: "rcpt - 550 5.2.0 Recipient unavailable"},
	{name: "unavailable", stages: []Stage{Rcpt}, code: 5, any: nUnavailable, none: nPolicy | nAgain, notStatus: [][3]int{{2, 0, 1}, {7, 0, 999}}, class: ClassUserUnknown,
		sample: "rcpt *.olc.protection.outlook.com 550 5.5.0 Requested action not taken: mailbox unavailable"},
	{name: "bad-address", stages: []Stage{Rcpt}, code: 5, status: [][3]int{{1, 1, 1}}, all: nRecipient | nRejected, none: nBlocked | nPolicy | nAgain | nSpam | nLoop | nTimeout | nLookup | nSystem | nSource, class: ClassUserUnknown,
		sample: "rcpt - 551 5.1.1 <r@far.test>: Recipient address rejected: Failed recipient validation check."},
	{name: "address-rejected", stages: []Stage{Rcpt}, code: 5, any: nRejected, none: nBlocked | nPolicy | nSystem | nAgain | nSpam | nSource | nMessage | nForm | nProtocol | nSize | nLoop | nVerify,
		notStatus: [][3]int{{7, 0, 999}, {2, 1, 3}, {3, 0, 9}}, class: ClassUserUnknown,
		sample: "rcpt - 550 #5.1.0 Address rejected."},

	// 5. About the message.
	{name: "loop", any: nLoop, class: ClassNetwork,
		sample: "data - 554 5.4.6 Too many hops"},
	{name: "content-status", status: [][3]int{{6, 0, 999}}, class: ClassContent,
		sample: "data - 500 5.6.1 Message content rejected"},
	{name: "too-big-unsaid", stages: []Stage{Data}, code: 5, all: nSize | nLimit, none: nMessage | nSpam | nForm | nLines | nDisk | nRecipient, class: ClassTooBig,
		sample: "data - 552 Size limit exceeded"},
	{name: "too-big-now", code: 4, all: nMessage | nSize | nLimit, none: nSpam | nFull | nQuota, class: ClassTooBig,
		sample: "data - 451 Maximum message size exceeded"},
	{name: "too-big", code: 5, all: nMessage, any: nSize | nLimit, none: nSpam | nProtocol, class: ClassTooBig,
		sample: "data - 552 5.7.0 message size exceeds corporate limit"},
	{name: "scanner", code: 4, all: nSpam | nSystem, class: ClassSystem,
		sample: "data - 450 Unable to scan for viruses"},
	{name: "spam", any: nSpam, class: ClassContent,
		sample: "data - 554 5.7.1 Spam message rejected"},
	{name: "invalid-message", stages: []Stage{Data}, all: nInvalid | nMessage, class: ClassContent,
		sample: "data - 554 5.5.2 Invalid data in message"},
	{name: "form", stages: []Stage{Data}, any: nForm, class: ClassContent,
		sample: "data - 554 5.7.1 This message is not RFC 5322 compliant"},

	// 6. In general.
	{name: "again-at-connect", stages: []Stage{Connect}, code: 421, any: nAgain | nBusy, class: ClassConnections,
		sample: "connect - 421 4.7.0 Try again later, closing connection."},
	{name: "lookup-failure", code: 4, all: nLookup | nSystem, none: nPolicy, class: ClassNetwork,
		sample: "mail - 451 DNS lookup failure: near.test. Try again later."},
	{name: "busy", code: 4, any: nBusy, status: [][3]int{{7, 500, 699}}, class: ClassRateLimited,
		sample: "mail - 451 4.7.500 Server busy. Please try again later from [192.0.2.7]."},
	{name: "timeout", any: nTimeout, class: ClassNetwork,
		sample: "data - 421 4.4.2 mx.far.test Error: timeout exceeded"},
	{name: "system-now", code: 4, any: nSystem | nDisk, notStatus: [][3]int{{2, 1, 1}, {4, 1, 2}, {7, 0, 999}}, class: ClassSystem,
		sample: "rcpt - 451 4.2.2 <r@far.test> mailbox access error"},
	{name: "system", any: nSystem | nDisk, none: nPolicy, notStatus: [][3]int{{2, 1, 1}, {4, 1, 2}}, class: ClassSystem,
		sample: "data - 554 System error"},
	{name: "busy-system", code: 4, any: nBusy, class: ClassSystem,
		sample: "rcpt - 450 busy - please try later"},
	{name: "again-to-recipient", stages: afterMail, code: 4, any: nAgain, none: nPolicy, status: [][3]int{{7, 0, 1}, {0, 0, 0}}, class: ClassGreylisted,
		sample: "rcpt - 451 4.7.1 Please try again later"},
	{name: "again", stages: []Stage{Mail, Data}, code: 4, any: nAgain, class: ClassRateLimited,
		sample: "mail - 450 try later"},
	{name: "refused-at-connect", stages: []Stage{Connect}, code: 5, any: nRefused | nPolicy | nSource, none: nSystem | nProtocol | nChoice | nTimeout, class: ClassReputation,
		sample: "connect - 554 Access denied"},
	{name: "policy", any: nPolicy, class: ClassPolicy,
		sample: "rcpt - 550 5.7.1 Access denied"},
	{name: "no-relay", all: nRelay | nNot, class: ClassPolicy,
		sample: "rcpt - 553 you are trying to use me as a relay, but I have not been configured to let you do this"},
	{name: "limit", all: nTooMany | nLimit, none: nMessage, class: ClassRateLimited,
		sample: "mail - 504 the number of attempts is above the limit"},
	{name: "protocol", any: nProtocol, notStatus: [][3]int{{7, 0, 999}}, class: ClassProtocol,
		sample: "mail - 500 5.5.2 unrecognized command"},
	{name: "lookup", any: nLookup, class: ClassNetwork,
		sample: "mail - 451 4.4.0 DNS resolving error"},
	{name: "refused", all: nRefused, any: nSource | nDomain | nMessage | nRecipient, class: ClassPolicy,
		sample: "mail - 550 Connection denied."},
	{name: "verify", any: nVerify, class: ClassPolicy,
		sample: "rcpt - 550 Recipient verification problem"},
}

// The hosts and stages of readings.
var (
	google    = []string{".google.com", ".googlemail.com"}
	afterMail = []Stage{Rcpt, Data}
)

// rule reads a reply. All conditions that are given must hold.
type rule struct {
	name      string
	hosts     []string // ends of the name of the host that spoke
	stages    []Stage
	code      int      // 421, or 4 or 5 for its first digit
	status    [][3]int // subject and detail from, to; {0, 0, 0} is a reply without one
	notStatus [][3]int
	all       notions
	any       notions // one of them
	none      notions

	class  Class
	sig    *elastic.Kind // nil: the class's
	sample string        // stage, host or -, reply
}

func of[T any](v T) *T { return &v }

func (r *rule) fits(a *Attempt, st status, found notions) bool {
	return found&r.all == r.all && (r.any == 0 || found&r.any != 0) && found&r.none == 0 &&
		(r.code == 0 || r.code == a.Code || r.code == a.Code/100) &&
		(r.stages == nil || slices.Contains(r.stages, a.Stage)) &&
		(r.status == nil || st.among(r.status)) && (r.notStatus == nil || !st.among(r.notStatus)) &&
		(r.hosts == nil || spokenBy(a.Peer, r.hosts))
}

// spokenBy says whether a peer, "mx1.example[192.0.2.1]", has a name with one of the ends.
func spokenBy(peer string, ends []string) bool {
	name, _, _ := strings.Cut(peer, "[")
	for _, end := range ends {
		if len(name) >= len(end) && strings.EqualFold(name[len(name)-len(end):], end) {
			return true
		}
	}
	return false
}
