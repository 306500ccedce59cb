package outcome

import (
	"strings"
)

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

	nYahooBlock // single receivers' codes, where they tell more than the words around them
	nYahooRate
	nNetEaseConn
	nNetEaseRate
	nNetEaseRcpt
	nNetEaseList
	nNetEaseSpam
	nLines // lines and headers that are too long or too many
	nNotListed
	nChoice // the recipient's own choice
)

// vocabulary is what words and phrases stand for. Phrases are in lower case, without
// apostrophes and punctuation; a last word with a * is the beginning of one. A + before
// one lets it count inside a name or URL too, where others do not: who refuses mail
// gives a link to mailserver.example/spam/user-unknown whatever the reason.
var vocabulary = []struct {
	notion  notions
	phrases string // separated by |
}{
	{nRecipient, "recipient|user|mailbox|mbox|inbox|account|addressee|alias|local part|rcpt|rcpt to|e mail address|email address|address|adress|users mailbox|mail account" +
		"|destination mailbox|destination address|benutzer|empfanger|empfaenger|empfänger|postfach|konto|destinataire|boite|boîte|compte|adresse destinataire" +
		"|utilisateur|destinatario|destinatário|usuario|usuário|buzon|buzón|cuenta|casilla|caixa|conta|utente|casella|indirizzo" +
		"|uzytkownik|użytkownik|odbiorca|adresat|skrzynka|uzivatel|uživatel|schranka|schránka|prijemce|příjemce|gebruiker|ontvanger|mottagare|bruger|kullanici" +
		"|пользователь|получатель|ящик|адресат|аккаунт|customer|mail user"},
	{nNoDomain, "host unknown|unknown host|unknown domain|domain unknown|domain not found|domain does not exist|domain doesnt exist|no such domain|no such host|recipient domain|recipients domain|destination system address|destination domain does not|destination domain not|domain is not reachable|recipient address has null"},
	{nSender, "postmaster verification|to send from|sender|senders|mail from|mailfrom|from domain|from address|envelope from|return path|originator|emetteur|expediteur|expéditeur|absender" +
		"|remitente|remetente|mittente|nadawca|odesilatel|odesílatel|afzender|avsandare|отправитель|отправителя|sender domain|outbound sender|domain may not exist"},
	{nSource, "ip|ips|client|client host|client ip|your host|your ip|your server|your mail server|your network|sending server|sending host|sending ip|mta|connecting host|remote ip" +
		"|ip address|adresse ip|netblock|mail server|servers|mail exchanger|your access|to connect|connection refused|connection denied|connection rejected"},
	{nMessage, "message|messages|mail|email|e mail|body|content|attachment|attachments|nachricht|mensagem|mensaje|messaggio|wiadomosc|сообщение|письмо|mailsize"},
	{nRecipients, "recipients|rcpts|rcpt numbers|destinataires|destinatarios|destinatários|destinatari|empfanger|empfänger|receivers"},
	{nMessages, "messages|emails|mails|e mails|max message per"},
	{nConnections, "connections|connexions|sessions|concurrent|simultaneous|parallel|concurrency|conexoes|conexiones|verbindungen|connessioni|connection limit|thread limit|threads"},
	{nDomain, "domain|domains|domaine|host|hostname|tld|dominio|domäne|domena"},

	{nUnknown, "no exist|dosnt exist|not in my local|no users|handle mail for that user|not a member|user not ok|recipient cannot be verified|cant find users|cant find user|cannot find user|unknown|not found|no such|does not exist|doesnt exist|dont exist|dont exists|not exist|not exists|non existent|nonexistent|no mailbox|no mailboxes|no account|no user|not known" +
		"|not a valid|isnt valid|not valid|no valid mailbox|unrouteable|unroutable|undeliverable address|cannot be found|couldnt be found|could not be found|cant be found|not listed in domino|not listed in public" +
		"|not listed in directory|not in directory|not our customer|not our user|not a user|not user of|not a known user|not a registered|not used|not registered|doesnt have a|doesnt have an|does not have a|does not have an|hasnt got" +
		"|unknown or illegal|no longer exists|not recognized|not recognised|no longer with|nobody here|there is no one|mapiexceptionnotfound|not have an account|not local user" +
		"|unbekannt|nicht bekannt|existiert nicht|nicht gefunden|nicht vorhanden|ungultige empfanger|inconnu|inconnue|nexiste pas|n existe pas|introuvable|inexistant|inexistante" +
		"|desconocido|desconocida|no existe|inexistente|nao existe|não existe|desconhecido|sconosciuto|sconosciuta|non esiste|inesistente|nieznany|nie istnieje|nie znaleziono" +
		"|neznamy|neznámý|neexistuje|onbekend|bestaat niet|okand|okänd|finns inte|ukendt|bilinmeyen|bulunamadi|не найден|не существует|неизвестен|нет такого" +
		"|+recipnotfound|+recipientnotfound|+nosuchuser|bad destination mailbox address|destination mailbox address invalid|destination addresses were unknown"},
	{nInvalid, "invalid|illegal|bad|wrong|ungultig|ungueltig|ungültig|ungültige|invalide|invalido|inválido|invalida|inválida|nieprawidlowy|nieprawidłowy|neplatna|neplatný|недопустимый"},
	{nMoved, "has moved|have moved|moved to|no longer at|address has changed|has changed address|user not local please try|please try forward|new address is|no longer on server|forwarding address|ist umgezogen|a demenage"},
	{nDisabled, "not activated|previously bounced|account is expired|account has expired|inactivity|never logged|hasnt entered|hasnt logged|not an active|does not receive mail|doesnt receive mail|no longer accepts|no longer accepting|disabled|inactive|deactivated|suspended|frozen|locked|closed|archived|discontinued|expired account|account expired|account is blocked|account has been blocked|mailbox is blocked|mailbox blocked" +
		"|no longer active|not active|no longer valid|no longer in use|no longer available|cannot be accessed|dormant|is not activated|not enabled|deaktiviert|gesperrt|desactive|désactivé|destinataire est bloque|archivee" +
		"|desactivado|desactivada|bloqueado|desativado|desativada|bloqueada|disattivata|disabilitata|sospesa|nieaktywne|zablokowane|zrusen|zrušen|заблокирован|отключен|account is not active|terminated|abandoned"},
	{nFull, "storage full|enough storage|enough space|mailbox full|mailbox is full|box is full|inbox is full|inbox full|full mailbox|over quota|overquota|out of storage|over storage|over storage quota|user is over|recipient overquota|exceeded storage|exceeds storage" +
		"|storage limit|allowed storage|exhausted allowed|no space left in mailbox|messages on the server|mails auf dem server|mailbox size limit|mailbox limit|mailbox exceeded|mailbox disk|exceeded its quota|exceeded his quota|exceeded their quota" +
		"|exceeded storage allocation|its storage|destinataire pleine|boite pleine|boîte pleine|pleine|postfach voll|speichervolumen|ist voll|lleno|llena|buzon lleno|cheia|caixa cheia|casella piena|piena|pelna|pełna|przepelniona|przepełniona" +
		"|plna|plná|preplnena|переполнен|is full|too much mail data|quotaexceeded*|mapiexceptionshutoffquotaexceeded|not enough space|insufficient mailbox|insufficient storage for the mailbox|mailbox has exceeded"},
	{nQuota, "quota|quotas|contingent"},
	{nUnavailable, "account is unavailable|account unavailable|mailbox unavailable|mailbox not available|mailbox is not available|mailbox is unavailable|mailbox currently unavailable|mailbox temporarily unavailable"},
	{nVerify, "verify|validate|verification|verified|unverified|callout|validation|verifying"},

	{nRefused, "unable to relay|not relaying|no longer relays|rcpthosts|allowed hosts|local user only|not local host|not a gateway|refused|refuse|refusee|rejected|rejete|reject|denied|denies|deny|blocked|block|banned|prohibited|not accepted|not accept|not accepting|will not be accepted|bounced|dropped|abgelehnt|abgewiesen|verweigert|rechazado|rechazada|rejeitado|rejeitada|rifiutato|rifiutata|odrzucona|odmitnuto|отклонено|disallowed|werent sent|filtered|forbidden"},
	{nBlocked, "blocked|block|banned|bloquee|bloquée|0ip blocked|gesperrt"},
	{nListed, "this ip has been|ip has been temporarily blocked|ip has been blocked|ip address has been blocked|your ip is blocked|0ip is listed|0ip listed|0ip found|block list|blocklist*|black list|blacklist*|black listed|black ip|blacklisted|block listed|+dnsbl*|+dnsbls|+rbl|rbls|+rbl+|+spamhaus|+spamcop|+sorbs|+barracudacentral|+uribl|+hostkarma|+invaluement|+manitu|listed in|listed at|listed by|listed on|is listed|due to listing|realtime block|blocked using|+xbl|+sbl|+cbl|+mail abuse|+proofpoint com|+spamrl|+junkemailfilter|cxbl|cdrbl|rbl deny"},
	{nReputation, "reputation|bad behavior|bad behaviour|complaints|open relay|open proxy|banned sending ip|banned sender|suspected spam ip|spam ip|ip is rejected|permanently deferred|blocked for abuse|spammer list|spammers|blocked for an hour" +
		"|blocked for the day|has been blocked for|is blocked for|too many invalid|too many unknown|too many failed|too many bad recipients|excessive unknown recipients|invalid recipients|submit messages to this|allowed to connect|incident de spam|bad ip|must register your ip|ip control|0ip blocked|a problem occurred|dynamic ip|messages have been sent from|service refuse|service refused|unwanted messages"},
	{nAuth, "spf|dkim|dmarc|arc|unauthenticated email|is unauthenticated|not authenticate|unauthenticated mail|authentication checks|sender policy framework|sender id|authentication level|authentication information|does not pass|domain authentication|domainkeys|mismatches client ip|invalid ip for sending|purported responsible|requires authentication|spoofed"},
	{nReverse, "reverse dns|rdns|+ptr|ptr record|reverse hostname|reverse lookup|reverse lookups|reverse entry|cannot find your|ip name lookup|fix reverse|helo|ehlo|forward confirmed|has no name|no rdns|+rdns"},
	{nLogin, "auth failed|authentication failed|authentication required|authentication requise|auth required|smtp authentication|not authenticated|unauthenticated senders|must authenticate|authenticate first|smtp auth|was not authenticated|client was not"},
	{nRelay, "not local host|relay|relays|relayed|relaying|rcpthosts|allowed hosts|gatewaying|open relays|relais|retransmision|not local|is not local|user not local|not a gateway|smtp server of your|no mail gateway|local user only"},
	{nPolicy, "no permit|not permit|policy|policies|prohibit|prohibition|not allowed|not permitted|not authorized|not authorised|unauthorized|unauthorised|access denied|permission|insufficient permission|restricted|restriction|restrictions|preferences|doesnt want|does not want|refused by|rejected by|by recipient|by user|reject list|administrative|politique|richtlinie|restrictive|not welcome|bounce attacks|local policy|isnt allowed|delivery is not allowed|delivery not authorized"},
	{nSpam, "spam*|+outboundspam*|spam|junk|junkmail|ube|uce|unsolicited|virus|viruses|malware|phish*|infected|trojan|spamming|spammy|spammer|anti spam|antispam|viren|courrier indesirable|pourriel|bulk mail|looks like spam|ofr 506|ofr 513|suspicious|blacklisted url|blacklisted link"},
	{nForm, "fields|field|character set|character sets|charset|data in message|rfc 5322|rfc5322|rfc2822|rfc 2822|compliant|conform|header|headers|duplicate|malformed|bare lf|bare cr|8 bit data|attachment|attachments|macros|content|contents|url in message|contenido|characters|media|mime|security issue|data format|message format|date header|from header|unicode character|inhalt|file containing"},
	{nLoop, "points back|loops back|back to myself|received header|loop|loops|looping|mail loop|hops|hop count|too many hops|routing loop|already has my delivered|received headers|schleife"},
	{nSize, "size|too large|too big|too long|large|big|message length|maximum size|mailsize|zu gross|zu groß|trop volumineux|trop gros|demasiado grande|muito grande|troppo grande|maximum email size"},
	{nLimit, "limit|limits|exceed|exceeds|exceeded|exceeding|maximum|over the"},

	{nRate, "0ip temporarily deferred|too many requests|rate limit|rate limited|rate limiting|ratelimit|ratelimited|rate exceeded|rate limits|too fast|too quickly|throttl*|slow down|slower|unusual rate|frequency limited|frequency|unexpected volume|excessive volume|unusual volume|high volume|too much mail from|too many messages|too many emails|too many e mails|too many mails|sending quota|rate quota|send rate|sending rate|submission rate|message rate|mail rate" +
		"|sending limit|send limit|relay quota|daily relay|max defers|volume limit|received too much|in a short|rl000001|rl000002|rl000003|rl000010|trop rapide|trop de messages|trop de mails|zu viele nachrichten|zu viele mails|demasiados mensajes|demasiados correos|muitas mensagens|troppi messaggi|zbyt wiele|prilis mnoho|quota exceeded for sender|policy rejection quota|recipient quota|sender quota|sender rate|emails per hour|messages per hour|message limit|sends too many|sent too many|send too many|recipients from 0ip|mail from 0ip"},
	{nPeriod, "hour|hourly|hours|per hour|day|daily|per day|minute|per minute|24 hours|stunde|heure|hora|giorno|godzine|short period|period of time"},
	{nTooMany, "too many|too much|excessive|maximum number|max number|trop de|zu viele|zuviele|demasiados|demasiadas|muitos|muitas|troppi|troppe|out of allow|exceeded the number|number of"},
	{nPerConn, "per connection|per session|on this connection|in this session|in one session|in this connection|one connection|same connection|session limit|max message per|number of messages per|messages per connection"},
	{nOneBox, "is receiving mail|receiving mail|mailbox received|messages to deferred|to this recipient|to this user|to this mailbox|one mailbox|recipient thread limit|recipients per hour message receive|message receive limit|this mailbox|user is receiving|recipient has exceeded"},
	{nBusy, "busy|overloaded|overload|too busy|under load|high load|ueberlastet|überlastet|surcharge|sobrecargado"},
	{nGrey, "greylist*|graylist*|grey list|gray list|grey listed|gray listed|grey listing|gray listing|postgrey|greylst|+grey rbl|internal resource temporarily|internal resources are temporarily|first time sender|liste grise|lista gris"},
	{nAgain, "try again|try later|please try|come back|later|retry|try another|spater|später|plus tard|mas tarde|más tarde|mais tarde|piu tardi|più tardi|pozniej|później|pozdeji|later again|tente novamente|intentelo|attempt again|позже"},
	{nTLS, "starttls|tls|ssl|encryption|encrypted|verschlusselung|verschlüsselung|chiffrement|high strength ciphers"},

	{nSystem, "create output|io error|input output error|i o error|system error|system problem|internal error|internal server error|local error|local problem|temporary failure|temporary error|temporary problem|temporary local|temporarily unavailable|temporary server|temporary system|lookup failure|configuration problem|config error|configuration error|service unavailable|service currently unavailable|service is currently unavailable|currently unavailable|service not available|not available" +
		"|insufficient system|system resources|resources|queue|upstream|server error|in progress|out of memory|database|trouble|unable to process|not accepting network|not accepting connections|system not|mta failure|local error in processing|server configuration|inbounds disabled|temporary recipient|operating system|server temporarily|temporariamente|temporalmente|temporairement|vorubergehend|vorübergehend|unable to connect|server unavailable|another server|storage failure|write error|try another server|unavailable"},
	{nDisk, "no such file|disk|disk space|system storage|insufficient system storage|no space left|out of disk|storage"},
	{nTimeout, "lost incoming connection|lost connection|connection lost|timeout|timed out|time out|io timeout|bad connection|connection expired|idle too long|lost input"},
	{nLookup, "dns|name server|resolver|dns error|dns lookup|nameserver|doesnt resolve|does not resolve|resolving|unresolvable"},
	{nProtocol, "command|commands|syntax|characters in user name|characters in local part|unrecognized|unrecognised|bad sequence|parameter|parameters|protocol|need rcpt|need mail|valid recipients|no valid recipients|unimplemented|not implemented|unsupported|not supported|improper sequence|all rcpt commands|argument|arguments|option|too many errors|domain name required|sequence error|invalid command|amounts of data"},
	{nNullMX, "null mx|nullmx|does not accept mail|doesnt accept mail|accepts no mail|not accept mail"},
	{nDomains, "destination domains|multiple domains|one domain per|different domains"},

	{nYahooBlock, "ts03|tss05|tss07|tss09|tss11|bl21|bl23"},
	{nYahooRate, "ts01|ts02|tss01|tss02|tss04|tss06|tss08|tss10|ipts04"},
	{nNetEaseConn, "hl icc|mi dmc|hl mmc"},
	{nNetEaseRate, "hl ifc|hl itc|mi sfq|mi ifc|rp qrc|rp esf|rp frl|mi stc|rp trc|mi cel|rp cel"},
	{nNetEaseRcpt, "rp drc|rp crc"},
	{nNetEaseList, "hl rep|hl mep|hl ihu|dt rbl|hl ipb|wm bli|wm blu|hl irb"},
	{nNetEaseSpam, "dt spm|dt spd|dt sum|dt mli|dt dmo"},
	{nLines, "line|lines|headers too|duplicate|header size limit"},
	{nNotListed, "not listed|isnt listed|not found in|blacklisted url|listed url|url in message|blacklisted link"},
	{nChoice, "rejected by recipients|rejected by recipient|rejected by this user|by users reject|recipient preferences|doesnt want|does not want|by user|user entry|user domain entry|permanent failure for one or more|anti spoofing|antispoofing"},
}

// phrase is one of the vocabulary, after its first word.
type phrase struct {
	rest   []string // the words that follow; the last one may end with *
	notion notions
	inName bool
}

// lexicon finds phrases by their first word.
type lexicon struct {
	words map[string][]phrase
	stems map[string][]stem // single words with a *, by their first four octets
}

type stem struct {
	start  string
	notion notions
	inName bool
}

// stemKey is how many octets of a stem are looked up.
const stemKey = 4

// newLexicon makes the vocabulary ready for use: of all phrases, or of those that keep
// wants.
func newLexicon(keep func(phrase string) bool) lexicon {
	l := lexicon{make(map[string][]phrase), make(map[string][]stem)}
	for _, v := range vocabulary {
		for p := range strings.SplitSeq(v.phrases, "|") {
			if keep != nil && !keep(p) {
				continue
			}
			p, inName := strings.CutPrefix(p, "+")
			words := strings.Fields(p)
			first, isStem := strings.CutSuffix(words[0], "*")
			if isStem && len(words) == 1 {
				l.stems[first[:stemKey]] = append(l.stems[first[:stemKey]], stem{first, v.notion, inName})
				continue
			}
			l.words[first] = append(l.words[first], phrase{words[1:], v.notion, inName})
		}
	}
	return l
}

const (
	maxWords  = 200  // of a reply that are read
	maxOctets = 1024 // likewise, as many as smtp.Reply keeps
)

// reader takes a text apart. It lives on the stack: reading a reply allocates nothing.
type reader struct {
	text  [maxOctets]byte // words in lower case, one after the other
	words [maxWords]word
	n     int // words
	size  int // octets of text
}

// word is one of a text.
type word struct {
	from, to uint16
	inName   bool // part of a host name or URL
}

func (r *reader) word(i int) []byte { return r.text[r.words[i].from:r.words[i].to] }

// split takes the words of a text. Mail addresses are left out, and so are the words that
// stand where the local part of the recipient's address is repeated: both were chosen by
// whoever wrote the list.
func (r *reader) split(text, local string) {
	if len(text) > maxOctets {
		text = text[:maxOctets]
	}
	for i := 0; i < len(text); {
		if isSpace(text[i]) || dots(text, i) {
			i++
			continue
		}
		end := i
		for end < len(text) && !isSpace(text[end]) && !dots(text, end) {
			end++
		}
		run := text[i:end]
		i = end
		if strings.IndexByte(run, '@') >= 0 || local != "" && len(run) <= len(local)+8 && strings.EqualFold(trim(run), local) {
			continue
		}
		if isAddress(run) {
			r.run("0ip", false)
			continue
		}
		r.run(run, isName(run))
	}
}

// dots says whether an octet begins or ends an ellipsis, which parts words: "<r@far.test>...User
// unknown".
func dots(text string, i int) bool {
	return text[i] == '.' && (i > 0 && text[i-1] == '.' || i+1 < len(text) && text[i+1] == '.')
}

// isName says whether a run of octets without blanks is a host name, an address or a URL:
// it has a dot or :// between letters or digits.
func isName(run string) bool {
	for i := 1; i+1 < len(run); i++ {
		switch {
		case run[i] == '.' && isWord(run[i-1]) && isWord(run[i+1]):
			return true
		case run[i] == ':' && strings.HasPrefix(run[i:], "://"):
			return true
		}
	}
	return false
}

// isAddress says whether a run is an IP address, bracketed or not. It is read as the word
// 0ip, which nobody writes.
func isAddress(run string) bool {
	dots, digits := 0, 0
	for i := range len(run) {
		switch c := run[i]; {
		case '0' <= c && c <= '9':
			digits++
		case c == '.' || c == ':':
			dots++
		case strings.IndexByte("[]()<>,;", c) < 0:
			return false
		}
	}
	return digits >= 4 && dots >= 3
}

func (r *reader) run(run string, name bool) {
	start := r.size
	end := func() {
		if r.size > start && r.n < maxWords {
			r.words[r.n] = word{uint16(start), uint16(r.size), name}
			r.n++
		}
		start = r.size
	}
	for i := range len(run) {
		c := run[i]
		switch {
		case c == '\'' || c == '`': // doesn't is one word
			continue
		case !isWord(c):
			end()
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		r.text[r.size] = c
		r.size++
	}
	end()
}

// trim leaves out what is no word at the ends of a run.
func trim(run string) string {
	for len(run) > 0 && !isWord(run[0]) {
		run = run[1:]
	}
	for len(run) > 0 && !isWord(run[len(run)-1]) {
		run = run[:len(run)-1]
	}
	return run
}

func isSpace(c byte) bool { return c <= ' ' || c == 0x7f }

// isWord says whether an octet belongs to a word. All of UTF-8 beyond ASCII does.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// notions are those of the words that were split.
func (r *reader) notions(l *lexicon) (found notions) {
	for i := range r.n {
		w := r.word(i)
		for _, p := range l.words[string(w)] {
			if found&p.notion == 0 && (p.inName || !r.words[i].inName) && r.goesOn(i+1, &p) {
				found |= p.notion
			}
		}
		if len(w) < stemKey {
			continue
		}
		for _, s := range l.stems[string(w[:stemKey])] {
			if (s.inName || !r.words[i].inName) && len(w) >= len(s.start) && string(w[:len(s.start)]) == s.start {
				found |= s.notion
			}
		}
	}
	return found
}

// goesOn says whether the words from i on are the rest of a phrase.
func (r *reader) goesOn(i int, p *phrase) bool {
	if i+len(p.rest) > r.n {
		return false
	}
	for k, want := range p.rest {
		if string(r.word(i+k)) != want || r.words[i+k].inName && !p.inName {
			return false
		}
	}
	return true
}
