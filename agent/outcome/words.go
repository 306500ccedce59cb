package outcome

// A reply's text is read as words with borders: "corporate limit" has no rate in it. Each
// word or phrase of the vocabulary stands for a notion, and readings (readings.go) ask
// for notions, so that a thing said in other words, or in another language, is read alike.

// notions are a set of them, a bit each.
type notions uint64

// The notions. Who or what a reply is about first, then what is the matter.
const (
	nRecipient   notions = 1 << iota // the recipient's address, mailbox or account
	nNoDomain                        // the recipient's domain, which does not exist
	nSender                          // our envelope sender, or the author
	nSource                          // our host, address or connection
	nMessage                         // the message, or a part of it
	nRecipients                      // several recipients
	nMessages                        // several messages
	nConnections                     // several connections or sessions
	nDomain                          // a domain or host by name

	nUnknown     // does not exist, is not known
	nInvalid     // is wrong, of whatever
	nMoved       // is elsewhere
	nDisabled    // exists, and is not in use
	nFull        // a mailbox is full
	nQuota       // a quota, whoever's
	nUnavailable // "mailbox unavailable", the stock phrase of RFC 5321 section 4.2.3
	nVerify      // somebody's verification

	nRefused    // denied, blocked, rejected
	nBlocked    // blocked, banned
	nListed     // on a blocking list
	nReputation // distrust by what was sent before
	nAuth       // SPF, DKIM, DMARC
	nReverse    // reverse DNS, or HELO name
	nLogin      // AUTH is wanted
	nRelay      // relaying
	nPolicy     // a rule of the receiver
	nSpam       // spam, virus
	nForm       // form or parts of the message
	nLoop       // hops
	nSize       // large, long
	nLimit      // a limit, or exceeding one

	nRate    // too fast
	nPeriod  // so many in a time
	nTooMany // too many
	nPerConn // of one connection
	nOneBox  // of one mailbox
	nBusy    // busy
	nGrey    // greylisting
	nAgain   // come again
	nTLS     // encryption

	nSystem   // trouble of the receiver's system
	nDisk     // its disk
	nTimeout  // of a dialogue
	nLookup   // of DNS
	nProtocol // commands, arguments
	nNullMX   // takes no mail at all
	nDomains  // several domains in a transaction

	nNot   // a denial
	nExist // what an address does that there is: exist, be known, be found
	nValid // is right
	nInUse // is in use

	nUnnamed  // something does not exist, and what is not said
	nRejected // the recipient's address is refused, as itself and not for somebody's wish

	nYahooBlock // single receivers' codes, where they tell more than the words around them
	nYahooRate
	nNetEaseConn
	nNetEaseRate
	nCodeUnknown // of an address that there is not
	nNetEaseList
	nTakesNone // takes no mail, whoever
	nLines     // lines and headers that are too long or too many
	nNotListed
	nChoice // the recipient's own choice
	nState  // expired, closed: of a mailbox, that it is not in use
)

// entry is a notion and phrases for it.
type entry struct {
	notion  notions
	phrases string // separated by |
}

// vocabulary is what words and phrases stand for. Phrases are in lower case, without
// apostrophes and punctuation; a last word with a * is the beginning of one. A + before
// one lets it count inside a name or URL too, where others do not: who refuses mail
// gives a link to mailserver.example/spam/user-unknown whatever the reason.
// It is English here; other languages are in languages.go.
var vocabulary = append([]entry{
	{nRecipient, "recipient|user|users|mailbox|mbox|inbox|account|addressee|alias|local part|rcpt|address|adress" +
		"|customer|person|mail box|such id|user id|that name|this name|such name|rcptto|mailing list|distribution list|distribution group|mail group|email group|list address|group address|subscriber|employee|username|userid|mail id|mailid|email id|emailid|unknown email|no such email|invalid email|email does|email not|email doesnt|email is not|email unknown|email could not|email was not|email cannot|staff member|account or domain"},
	{nNoDomain, "destination system address|recipient address has null|no mx or a"},
	{nSender, "postmaster verification|to send from|sender|senders|mail from|mailfrom|from domain|from address|envelope from|return path|originator" +
		"|domain may not exist|callback|return address|reply address|sending address|your account|your user|your address|author|you are not|message sending|sending for|outgoing|your domain|your email|your e mail|your mail address|reply to address|reply to header|both you|sender address|sender addresses|sender domain|sender email|sender ip address|reverse path signature|reverse path|from reverse alias|from header must|+sendasdeniedexception|+mapiexceptionsendasdenied"},
	{nSource, "ip|ips|client|your host|your server|your network|sending server|sending host|mta|connecting host" +
		"|netblock|mail server|servers|mail exchanger|your access|to connect|connection refused|connection denied|connection rejected|address 0ip|client address|remote address|sending ip|source ip|remote host|your isp|your provider|your mail server|your ip address|peer"},
	{nMessage, "message|messages|mail|email|body|content|attachment|attachments|mailsize|data size"},
	{nRecipients, "recipients|rcpts|rcpt numbers|receivers|only one recipient|one recipient at|split transaction|rcpt limit|recipient limit|rcpt count|recipient count|next batch|batch limit|rp drc|rp crc|separate transaction"},
	{nMessages, "messages|emails|mails|max message per"},
	{nConnections, "connections|sessions|concurrent|simultaneous|parallel|concurrency|connection limit|thread limit|threads|connects|sessions per|connection slots|server ports|smtp ports|simultaneous sessions|open connections"},
	{nDomain, "domain|domains|name server|host|mail domain|email domain|destination domain"},

	{nUnknown, "no users|handle mail for that user|user not ok|recipient cannot be verified|unknown|unrecogni*|no such|non existent|nonexistent" +
		"|unrouteable|unroutable|cannot route|undeliverable address|not listed in domino|not listed in public" +
		"|not listed in directory|not in directory|not used|doesnt have a|does not have a|hasnt got" +
		"|no longer with|nobody here|there is no one|mapiexceptionnotfound|not local user" +
		"|+recipnotfound|+recipientnotfound|+nosuchuser|bad destination mailbox address|destination mailbox address invalid|is not here|not in my local|deliver mail for|user have no mail|no redirect entry|non existant|misspelled|no record of|not on file|not in our records|not our user|not our customer|unallocated|not allocated|not assigned|gone away|has left|no longer employed|no longer works|unresolvable address|forged e mail address|nonexisting|non existing|mail user unavailable|undefined|not in database|not in our database|not in the database|not in our directory|not in the directory|not in our system|not on this system|not on our system|not on this server|not on our server|isnt here|not here|unresolvable user|unresolvable recipient|user missing|mailbox missing|never existed|unresolvable|is obsolete|no longer supported|no longer hosted|no longer handled|so such user|not recognised|not recognized|was never|unknown to us|not one of our|no match|no mail drop"},
	{nInvalid, "invalid|illegal|bad|wrong|bogus|unusable|incorrect|improper"},
	{nMoved, "has moved|have moved|moved to|no longer at|address has changed|has changed address|user not local please try|please try forward|new address is|no longer on server|forwarding address|been moved|been replaced by|replaced by|relocated|address changed|changed to|renamed"},
	{nDisabled, "previously bounced|account is expired|account has expired|no longer accepts|no longer accepting|disabl*|inactiv*|noactivity|recipient activity|deactiv*|suspend*|frozen|locked|archived|discontinued|expired account|account expired|account is blocked|account has been blocked|mailbox is blocked|mailbox blocked" +
		"|no longer valid|no longer in use|no longer available|cannot be accessed|dormant" +
		"|terminated|abandoned|deleted|removed|account closed|closed account|mailbox closed|has been closed|is closed|closed due|status closed|enable receiving|blocked due to inactivity|long time inactivity|not in use|unused|decommissioned|retired|deprovisioned|cancelled|canceled|on hold|account blocked|mailbox is closed|user is blocked|should log in|must log in|hangup|unverified mailbox|mailbox not verified|not yet activated|not activated|parked|deceased|out of use|unmonitored|not monitored|not operational|deactivation|expiration"},
	{nFull, "storage full|enough storage|enough space|mailbox full|inbox full|full mailbox|over quota|overquota|out of storage|over storage|user is over|exceeded storage|exceeds storage" +
		"|storage limit|allowed storage|exhausted allowed|no space left in mailbox|messages on the server|mailbox size limit|mailbox limit|mailbox exceeded|mailbox disk|exceeded its quota|exceeded his quota|exceeded their quota" +
		"|its storage" +
		"|is full|too much mail data|quotaexceeded*|mapiexceptionshutoffquotaexceeded|insufficient mailbox|insufficient storage for the mailbox|mailbox has exceeded|mailbox space|messages in this mailbox|messages in the mailbox|messages in mailbox|space available|available space|space has used|has used up|out of space|out of quota|over quote|overdrawn|mailbox is over|exceeds available|no more space|insufficient space|has no space|storage exceeded|no room|capacity exceeded|mailbox quota|mailbox exceeds|mailbox would exceed|mailbox storage|mailbox capacity|disk quota|is over its limit|account size limit|address size limit|the storage limit|storage allocation|recipient quota exceeded|recipient quota has been|recipient has exceeded its quota|at capacity|over its quota|over their quota|would exceed mailbox|no quota left|quota is full|storage quota"},
	{nQuota, "quota|quotas|contingent|credits"},
	{nUnavailable, "unavailable|not available"},
	{nVerify, "verify|validate|verification|verified|unverified|callout|validation|verifying|cannot check"},

	{nRefused, "unable to relay|not relaying|no longer relays|rcpthosts|allowed hosts|local user only|not local host|not a gateway|refused|refuse|rejected|reject|denied|denies|deny|blocked|block|banned|prohibited|not accepted|not accept|not accepting|will not be accepted|bounced|dropped|disallowed|werent sent|filtered|forbidden"},
	{nBlocked, "blocked|block|banned|0ip blocked|hangup"},
	{nListed, "this ip has been|ip has been temporarily blocked|ip has been blocked|ip address has been blocked|your ip is blocked|0ip listed|0ip found|block list|blocklist*|black list|blacklist*|black listed|black ip|block listed|+dnsbl*|+rbl|rbls|+spamhaus|+spamcop|+sorbs|+barracudacentral|+uribl|+hostkarma|+invaluement|+manitu|listed in|listed at|listed by|listed on|is listed|due to listing|realtime block|blocked using|+xbl|+sbl|+cbl|+mail abuse|+proofpoint com|+spamrl|+junkemailfilter|cxbl|cdrbl|ers customized|ers qil|ers rbl|ers dul|subnet is in my list|open proxy in|+uceprotect|+backscatterer|+mailspike|+psbl|+nixspam|+lashback|+abusix|+spameatingmonkey|drop list|deny list|denylist|denylisted|on a list of|blackhole"},
	{nReputation, "0ip is blocked|reputation|attack|harvesting|bad behavior|bad behaviour|complaints|an open relay|open proxy|banned sending ip|banned sender|spam ip|ip is rejected|permanently deferred|blocked for abuse|spammer list|spammers|blocked for an hour" +
		"|blocked for the day|has been blocked for|is blocked for|too many invalid|too many failed|too many bad recipients|excessive unknown recipients|invalid recipients|submit messages to this|allowed to connect|bad ip|must register your ip|ip control|0ip blocked|a problem occurred|dynamic ip|messages have been sent from|service refused|unwanted messages|sbrs|senderbase|senderscore|sender score|connections from your ip|rtr du|due to abuse|for abuse|abuse detected|rejection abuse|abusive|karma|spam source|known spammer|bad reputation|poor reputation|low reputation|too many unknown|dynamic ips|dynamic address|dynamic addresses|dynamically assigned|dial up|dialup|contact your internet service provider|you are banned|are banned|been banned|0ip is listed|0ip is blacklisted|insecure mail relay|insecure relay|in prison|failed recipients|bot blacklisted|bruteforce|brute force|botnet|hacked|compromised|dynamically allocated|dynamic range|residential|postfwd3|service denied|distrusted|untrusted|bad history|abuse from|misuse|blocked due to abuse|listed for abuse|blocked for spam|spamming|esa sender blocked"},
	{nAuth, "spf|dkim|dmarc|arc|unauthenticated email|is unauthenticated|not authenticate|unauthenticated mail|authentication checks|sender policy framework|sender id|authentication level|authentication information|does not pass|domain authentication|domainkeys|mismatches client ip|invalid ip for sending|purported responsible|domain requires authentication|spoofed|unverifyable|approved relay|not authorized to use domain|impersonat*|alignment|unaligned|softfail|permerror|on behalf of|impersonation"},
	{nReverse, "+ptr|cannot find your|ip name lookup|helo|ehlo|forward confirmed|has no name|+rdns|backtranslate|to a host name|no host name|ip must resolve|host must resolve|hello name|greeting name|in host names|like a hostname|like a host name|not a hostname|host names are|0ip from unknown tld|0ip from rfc2606|reverse dns|reverse lookup|reverse lookups|reverse entry|reverse record|reverse mapping|reverse host|reverse hosts|reverse hostname|reverse hostnames|reverse name|reverse names|reverse look|reverse ip|reverse ptr|reverse resolution|reverse resolves|reverse resolve|reverse unchecked|reverse verified|reverse zone|reverse address|reverse delegation|no reverse|valid reverse"},
	{nLogin, "requires authentication|auth failed|authentication failed|authentication required|auth required|smtp authentication|not authenticated|unauthenticated senders|must authenticate|authenticate first|smtp auth|client was not|password|credentials|login|auth first|need auth|pop before smtp|log in first|authorization required|sign in|authenticate before|authentication is required|authentication needed|authenticate yourself|smtp authorization|authentication failure"},
	{nRelay, "relay|relays|relayed|relaying|rcpthosts|allowed hosts|gatewaying|not local|not a gateway|smtp server of your|no mail gateway|local user only|hosted|our domains|local account|handle mail"},
	{nPolicy, "access|rule|rules|approved|whitelist*|allowlist*|confirmation|no permit|not permit|policy|policies|prohibit|prohibition|not allowed|not permitted|not authorized|not authorised|unauthorized|unauthorised|permission|restricted|restriction|restrictions|preferences|doesnt want|does not want|refused by|rejected by|by recipient|by user|reject list|administrative|restrictive|not welcome|bounce attacks|isnt allowed|legitimate bounces|mailpolicy|policy violation|go away|moderated|members only|subscribers only|not subscribed|only accepting|only accepts|held for|null senders|null sender|noreply|no reply address|multi recipient bounce|dsn to multiple|reverse alias|must be approved|not accepted here|local policy|weird address|disallows|allowed senders|only internal|internal use|internal only|external senders|outside senders|closed list|private list|explicitly|not eligible|authorized senders|permitted senders|can only send|may only send|only registered|registered users"},
	{nSpam, "spam*|+outboundspam*|junk|junkmail|ube|uce|unsolicited|virus|viruses|malware|phish*|infected|trojan|antispam*|bulk|scored|scoring|ofr 506|ofr 513|suspicious|blacklisted url|blacklisted link|mass mailer|mass mail|+mcspam*|phone number filter|antivirus|anti virus|score too high|spam score|unwanted|malicious|worm|harmful|infect*|advertis*|dangerous|blacklisted word|forbidden word|bayes*|mail score|message score|dt spm|dt spd|dt sum|dt mli|dt dmo"},
	{nForm, "fields|field|character set|character sets|charset|data in message|rfc 5322|rfc5322|rfc2822|rfc 2822|compliant|conform|header|headers|duplicate|malformed|bare lf|bare cr|8 bit data|attachment|attachments|macros|content|contents|url in message|characters|media|mime|security issue|data format|message format|unicode character|file containing|url in|html|comply|conversion|words|bare line|line feed|linefeed|bare lfs|bare crs|bare newline|bare newlines|nul characters|null characters|password protected|protected zip|zip file|zip files|credential leak|message filtered|return path header|separator|+surbl|+uribl|message contains|file type|blocked url|executable|send some data|empty message|message is empty|empty body|subject|subjects|formatted|formatting|line ending|line endings|links|a link|address syntax|syntax of address|local part too long|non ascii|ill formed|badly formed|unparsable|unparseable|defect|encoding|html part|file types|error parsing message|defects"},
	{nLoop, "points back|back to myself|received header|loop|loops|looping|hops|hop count|already has my delivered|received headers"},
	{nSize, "size|too long|large|big|message length|mailsize|larger|bigger|oversize|oversized|length exceeds|exceeds length|exceeds the length|length limit|maximum length|longer than"},
	{nLimit, "limit|limits|threshold|exceed|exceeds|exceeded|exceeding|maximum|over the|max|maximal|limited to|at most|more than"},

	{nRate, "0ip temporarily deferred|too many requests|rate limit|rate limited|rate limiting|ratelimit|ratelimited|rate exceeded|rate limits|too fast|too quickly|throttl*|slow down|slower|unusual rate|frequency|unexpected volume|excessive volume|unusual volume|high volume|too much mail from|too many messages|too many emails|too many e mails|too many mails|sending quota|rate quota|send rate|sending rate|submission rate|message rate|mail rate" +
		"|sending limit|send limit|relay quota|daily relay|max defers|volume limit|received too much|in a short|rl000001|rl000002|rl000003|rl000010|quota exceeded for sender|policy rejection quota|recipient quota|sender quota|sender rate|emails per hour|messages per hour|message limit|sends too many|sent too many|send too many|recipients from 0ip|mail from 0ip|dyn t1|queue quota|submission quota|limit of messages|messaging limit|messaging limits|too many recent|too much mail|sending limits|mail volume|traffic limit|unusual traffic|your limit|number of messages|sent to many|to many mails|to many messages|to many emails|ip temporarily suspended|ip suspended|too much traffic|sending too many|sending too much|flood|flooding|burst|backoff|back off|limit per|too many per|messages per day|messages per minute|emails per day|address deferred|ip deferred"},
	{nPeriod, "hour|hourly|hours|minute|day|daily|short period|period of time"},
	{nTooMany, "too many|too much|excessive|maximum number|max number|out of allow|exceeded the number|number of|only one recipient|one recipient at|split transaction|too frequent|too often|to many|next batch|batch limit|rp drc|rp crc|separate transaction"},
	{nPerConn, "per connection|per session|on this connection|in this session|in one session|in this connection|one connection|same connection|session limit|max message per|number of messages per"},
	{nOneBox, "receiving mail|mailbox received|messages to deferred|to this recipient|to this user|one mailbox|recipient thread limit|recipients per hour message receive|message receive limit|this mailbox|user is receiving|recipient has exceeded"},
	{nBusy, "busy|overloaded|overload|under load|high load|too busy|server is busy|heavily loaded|load is too high|load too high|load average"},
	{nGrey, "greylist*|graylist*|grey list|gray list|grey listed|gray listed|grey listing|gray listing|postgrey|greylst|+grey rbl|internal resource temporarily|internal resources are temporarily|first time sender|gl01"},
	{nAgain, "try again|please try|come back|later|retry|try another|attempt again"},
	{nTLS, "starttls|tls|ssl|encryption|encrypted|high strength ciphers|mta sts|dane|tlsa|secure connection|secure channel|cipher|ciphers"},

	{nSystem, "create output|io error|input output error|i o error|system error|system problem|internal error|local error|local problem|temporary failure|temporary error|temporary problem|temporary local|temporary server|temporary system|lookup failure|configuration problem|config error|configuration error|not available" +
		"|insufficient system|resources|queue|upstream|server error|in progress|memory|error in processing|database|trouble|unable to process|not accepting network|not accepting connections|system not|mta failure|server configuration|inbounds disabled|temporary recipient|operating system|server temporarily|unable to connect|another server|storage failure|write error|unavailable|unknown error|unknown reason|unknown failure|unknown problem|maintenance|out of memory|shutting down|going down|license expired|not be saved|no data saved|could not store|unable to store|cannot store|unable to scan|cannot scan|could not scan|failed to scan|replicated|unqueuable|unqueueable|could not save|cannot save|unable to save|failed to save|failed to store|could not write|cannot write|failed to write|failed to queue|could not queue|unable to queue|writing queue file|queue file|unexpected error|unexpected failure|internal failure|internal problem|server failure|server problem|processing error|recipient error|delivery error occurred|mailbox access error|cannot reach|cant reach|could not reach|unable to reach|limitations|overloaded|out of resources|no resources|try again error|encryption failed|mailbox domain problem|database error|offline|server is down|not running|backend|backend error|directory service|cannot contact|could not contact|resource temporarily|temporarily out of|internal processing|unable to look up|command failed|cannot process|could not process|problems with"},
	{nDisk, "no such file|disk|no space left|storage"},
	{nTimeout, "lost incoming connection|lost connection|connection lost|timeout|timed out|time out|bad connection|connection expired|idle too long|lost input|read data from client|open for too long|session expired|session timed|not reachable|is unreachable|host unreachable|network unreachable|no route to host"},
	{nLookup, "dns|name server|resolver|nameserver|doesnt resolve|does not resolve|resolving|unresolvable|unable to look up"},
	{nProtocol, "command|commands|syntax|characters in user name|characters in local part|bad sequence|parameter|parameters|protocol error|protocol violation|smtp protocol violation|the smtp protocol|protocol synchronization|protocol sequence|need rcpt|need mail|valid recipients|unimplemented|not implemented|unsupported|not supported|improper sequence|argument|arguments|option|too many errors|domain name required|sequence error|amounts of data|rfc 5321 address|rfc5321 address|rfc 821 address|rfc 822 address|rfc 2821 address|rfc 2822 address|one valid recipient|at least one recipient|no valid recipient|supplying a domain|address required|not following|invalid input|fully qualified address|already established|already received|already given|already specified|already set|was expecting|expecting|nested|out of sequence|out of order|not yet given|helo required|ehlo required|helo ehlo needed|ehlo needed|helo needed|helo first|ehlo first|say helo|say hello|say ehlo|send helo|send ehlo|need helo|need ehlo|helo ehlo required|parse mail|esmtp parameters|what are you trying|not understood|bad argument|missing argument|unexpected command|unrecognized command|command sequence"},
	{nNullMX, "null mx|nullmx"},
	{nDomains, "destination domains|multiple domains|one domain per|recipients in different domains"},

	// A denial counts where it stands before one of the next, or before the recipient
	// (reader.notions). Where it stands after it, the two are a phrase above.
	{nNot, "no|not|non|never|cannot|cant|couldnt|doesnt|dosnt|isnt|arent|dont|hasnt|wasnt|unable"},
	{nExist, "exist|exists|found|find|known|recognized|recognised|registered|handled|member|know|listed in our|recipient list|recipient table|user list|user table|located|present|defined|provisioned|listed|existed|matching|validrcptto"},
	{nInUse, "active|activated|enabled|receive|receives|receiving|logged|entered"},
	{nRejected, "rejected|reject|refused|refuse|bounced|not accepted"},
	{nValid, "valid"},

	{nState, "expired|closed|blocked|terminated|not accepting|not in service|out of service|abgelaufen|geschlossen|gesperrt|bloque|bloqué|bloquée|cerrada|cerrado|bloqueada|bloqueado|bloccata|bloccato"},

	{nYahooBlock, "ts03|tss05|tss07|tss09|tss11|bl21|bl23"},
	{nYahooRate, "ts01|ts02|tss01|tss02|tss04|tss06|tss08|tss10|ipts04"},
	{nNetEaseConn, "hl icc|mi dmc|hl mmc"},
	{nNetEaseRate, "hl ifc|hl itc|mi sfq|mi ifc|rp qrc|rp esf|rp frl|mi stc|rp trc|mi cel|rp cel"},
	{nCodeUnknown, "xgemail 0011"},
	{nNetEaseList, "hl rep|hl mep|hl ihu|dt rbl|hl ipb|wm bli|wm blu|hl irb"},
	{nTakesNone, "does not accept mail|accepts no mail"},
	{nLines, "line|lines|headers too|duplicate|header size limit|header size|headers size|header too|header lines|many headers|line length|line is too long|mime parts"},
	{nNotListed, "not listed|isnt listed|not found in|blacklisted url|listed url|url in message|blacklisted link|url in|+surbl|message contains|may be blacklisted"},
	{nChoice, "rejected by recipients|rejected by recipient|rejected by this user|by users reject|recipient preferences|doesnt want|does not want|by user|user entry|user domain entry|permanent failure for one or more|anti spoofing|antispoofing|dont want|user reject|recipient reject|user rejects|recipient rejects|blocked by the recipient|blocked by recipient|blocked by the user|blocked by user|blocked you|rejected by user|has blacklisted|has blocked|definitively does|approved list|that country|your country|countries|geo blocking|not in whitelist|gl bl|host does not accept mail"},
}, otherLanguages...)
