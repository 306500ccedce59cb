package outcome

import "github.com/millrace/millrace/agent/elastic"

// moreReplies go on where replies ends: other servers' words for the same things.
var moreReplies = []sample{
	// Exim, Postfix, Exchange, qmail, Sendmail about addresses.
	{Rcpt, 550, "", "Unknown user", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.1", "<x@example.com>... User unknown", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "#5.1.0 Address rejected.", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.0", "Address rejected", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 511, "", "sorry, no mailbox here by that name (#5.1.1 - chkuser)", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 553, "5.3.0", "<x@example.com>... No such user here", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 554, "5.1.1", "Mailbox not found", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.2.1", "Mailbox not available", ClassSuspended, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Mailbox does not exist!", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.4.1", "Recipient address rejected: Access denied. [AM6EUR05FT047.eop-eur05.prod.protection.outlook.com]", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.5.1", "Invalid recipient: <x@example.com> (Mode: normal)", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Recipient Rejected: No account by that name here", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.1", "unknown or illegal alias: x@example.com", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "Empfaenger unbekannt / user unknown", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.1", "Adresse d au moins un destinataire invalide. Invalid recipient. OFR204_418", ClassUserUnknown, Bounce, elastic.Accepted},
	{Rcpt, 553, "5.1.3", "Invalid address format", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 450, "4.2.0", "<x@example.com>: Recipient address rejected: User unknown in local recipient table", ClassUserUnknown, Retry, elastic.Accepted},
	{Rcpt, 550, "5.1.2", "We weren't able to find the recipient domain.", ClassHostUnknown, Bounce, elastic.Accepted},
	{Data, 554, "5.4.4", "Unable to route: domain not found", ClassHostUnknown, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.1.6", "Recipient no longer on server: x@example.com", ClassHasMoved, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "User has moved to x@example.org", ClassHasMoved, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.2.1", "The email account that you tried to reach is inactive. Learn more at https://support.google.com/mail/?p=DisabledUser", ClassSuspended, Bounce, elastic.Accepted},
	{Rcpt, 554, "", "delivery error: dd Sorry, your message to x@yahoo.com cannot be delivered. This mailbox is disabled (554.30).", ClassSuspended, Bounce, elastic.Accepted},
	{Rcpt, 550, "", "This account has been suspended", ClassSuspended, Bounce, elastic.Accepted},

	// Full mailboxes.
	{Rcpt, 452, "4.2.2", "<x@example.com>: user is over quota", ClassMailboxFull, Retry, elastic.Accepted},
	{Data, 552, "5.2.2", "Mailbox size limit exceeded", ClassMailboxFull, Bounce, elastic.Accepted},
	{Data, 554, "5.2.2", "mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException", ClassMailboxFull, Bounce, elastic.Accepted},
	{Rcpt, 452, "", "Requested action not taken: insufficient storage for the mailbox, quota exceeded", ClassMailboxFull, Retry, elastic.Accepted},
	{Rcpt, 550, "", "Quota exceeded (mailbox for user is full)", ClassMailboxFull, Bounce, elastic.Accepted},
	{Rcpt, 422, "", "The recipient's mailbox has exceeded its storage limit", ClassMailboxFull, Retry, elastic.Accepted},

	// Sizes.
	{Mail, 552, "", "Message size exceeds maximum value", ClassTooBig, Bounce, elastic.Accepted},
	{Data, 554, "5.3.4", "Message too big for system", ClassTooBig, Bounce, elastic.Accepted},
	{Data, 523, "", "the message size exceeds the limit", ClassTooBig, Bounce, elastic.Accepted},

	// Too many connections, too much, too fast.
	{Connect, 421, "", "too many connections from your IP address", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "4.7.0", "Too many simultaneous SMTP sessions", ClassConnections, Retry, elastic.Refused},
	{Connect, 450, "4.7.1", "Error: too many connections from 192.0.2.7", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "", "mx.example.com: SMTP incoming data connection limit reached", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "", "Server too busy, try again later", ClassConnections, Retry, elastic.Refused},
	{Connect, 421, "4.7.0", "Try again later, closing connection.", ClassConnections, Retry, elastic.Refused},
	{Mail, 421, "4.7.0", "Error: too much mail from 192.0.2.7", ClassRateLimited, Retry, elastic.RateRefused},
	{Mail, 450, "4.7.1", "Error: too much mail from 192.0.2.7", ClassRateLimited, Retry, elastic.RateRefused},
	{Rcpt, 450, "4.7.1", "<x@example.com>: Recipient address rejected: Policy: rate limit exceeded", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 421, "4.4.5", "Directory harvest attack detected: too many messages", ClassRateLimited, Retry, elastic.RateRefused},
	{Data, 451, "4.7.1", "Your mail has been throttled", ClassRateLimited, Retry, elastic.RateRefused},
	{Mail, 452, "4.2.1", "Too many messages from 192.0.2.7, slow down", ClassRateLimited, Retry, elastic.RateRefused},
	{Mail, 421, "", "4.3.2 Maximum messages per session exceeded", ClassConnections, Retry, elastic.Closed},
	{Mail, 421, "4.5.3", "You have exceeded the maximum number of messages in this session", ClassConnections, Retry, elastic.Closed},
	{Rcpt, 452, "4.5.3", "Too many recipients received this hour", ClassRateLimited, Retry, elastic.RateRefused},
	{Rcpt, 550, "5.5.3", "Too many recipients", ClassTooManyRecipients, Retry, elastic.Accepted},

	// Greylisting in many words.
	{Rcpt, 450, "", "4.7.1 Client host rejected: Greylisting in effect, try again in 300 seconds", ClassGreylisted, Retry, elastic.Accepted},
	{Rcpt, 451, "4.7.1", "Greylisted for 5 minutes, please retry", ClassGreylisted, Retry, elastic.Accepted},
	{Rcpt, 451, "", "Temporarily greylisted by example.com", ClassGreylisted, Retry, elastic.Accepted},
	{Data, 451, "4.7.0", "Graylisted, please retry later", ClassGreylisted, Retry, elastic.Accepted},

	// Lists, reputation, content, authentication.
	{Rcpt, 550, "5.7.1", "Service unavailable, client host [192.0.2.7] blocked using Spamhaus", ClassReputation, Retry, elastic.Accepted},
	{Rcpt, 554, "5.7.1", "<x@example.com>: Recipient address rejected: your IP 192.0.2.7 is listed in dnsbl.sorbs.net", ClassReputation, Retry, elastic.Accepted},
	{Connect, 554, "", "mx.example.com Your access to this mail system has been rejected due to the sending MTA's poor reputation.", ClassReputation, Retry, elastic.Failed},
	{Connect, 550, "", "Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.7 (reputation)", ClassReputation, Retry, elastic.Failed},
	{Data, 550, "5.7.350", "Remote server returned message detected as spam", ClassContent, Bounce, elastic.Accepted},
	{Data, 550, "", "High probability of spam", ClassContent, Bounce, elastic.Accepted},
	{Data, 552, "5.7.0", "This message was blocked because its content presents a potential security issue (virus).", ClassContent, Bounce, elastic.Accepted},
	{Data, 550, "5.7.509", "Access denied, sending domain example.com does not pass DMARC verification and has a DMARC policy of reject.", ClassAuthentication, Bounce, elastic.Accepted},
	{Mail, 550, "", "SPF check failed for example.com: not authenticated", ClassAuthentication, Bounce, elastic.Accepted},
	{Connect, 450, "4.7.25", "Client host rejected: cannot find your hostname, [192.0.2.7]", ClassAuthentication, Retry, elastic.Failed},
	{Mail, 550, "5.7.25", "The IP address sending this message does not have a PTR record setup", ClassAuthentication, Bounce, elastic.Accepted},
	{Mail, 451, "4.1.8", "Domain of sender address x@example.com does not resolve", ClassPolicy, Retry, elastic.Accepted},
	{Mail, 553, "5.1.8", "<x@example.com>... Domain of sender address x@example.com does not exist", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.7.133", "RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 551, "5.7.1", "Relaying denied", ClassPolicy, Bounce, elastic.Accepted},
	{Rcpt, 550, "5.7.64", "TenantAttribution; Relay Access Denied", ClassPolicy, Bounce, elastic.Accepted},

	// Trouble of the receiver's, and TLS.
	{Rcpt, 451, "4.3.0", "<x@example.com>: Temporary lookup failure", ClassSystem, Retry, elastic.Accepted},
	{Data, 451, "4.3.0", "Error: queue file write error", ClassSystem, Retry, elastic.Accepted},
	{Data, 452, "4.3.1", "Insufficient system resources (UsedDiskSpace)", ClassSystem, Retry, elastic.Accepted},
	{Data, 450, "", "mailbox busy or temporarily blocked", ClassSystem, Retry, elastic.Accepted},
	{Rcpt, 451, "4.4.1", "Temporary server error. Please try again later", ClassNetwork, Retry, elastic.Accepted},
	{Data, 554, "5.4.6", "Too many hops", ClassNetwork, Bounce, elastic.Accepted},
	{Mail, 530, "5.7.1", "Encryption required for requested authentication: must issue STARTTLS", ClassTLS, Retry, elastic.Accepted},
	{Mail, 450, "4.7.4", "TLS required", ClassTLS, Retry, elastic.Accepted},
	{Mail, 500, "5.5.2", "unrecognized command", ClassProtocol, Bounce, elastic.Accepted},
	{Rcpt, 503, "5.5.1", "Error: need MAIL command", ClassProtocol, Bounce, elastic.Accepted},
}
