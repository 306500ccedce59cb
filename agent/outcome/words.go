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
	{nRecipient, "recipient|user|users|mailbox|mbox|inbox|account|addressee|alias|local part|rcpt|address|adress" +
		"|benutzer|nutzer|kunde|empfanger*|empfaenger*|empfänger*|adressat|postfach|konto|destinataire|boite|boîte|compte" +
		"|utilisateur|destinatario|destinatário|usuario|usuário|buzon|buzón|cuenta|casilla|caixa|conta|utente|casella|indirizzo" +
		"|uzytkownik*|użytkownik*|odbiorca|adresat|skrzynk*|uzivatel*|uživatel*|schranka|schránka|prijemce|příjemce|kayttaja|käyttäjä|vastaanottaja|korisnik|felhasznalo|felhasználó|cimzett|címzett" +
		"|пользовател*|получател*|ящик*|адресат*|аккаунт*|користувач*|customer|person|mail box|such id|user id|that name|this name|such name|adresse|adressen|adres|adresa|direccion|dirección|endereco|endereço|osoite|адрес*|gebruiker*|ontvanger*|mottagare*|anvandare*|användare*|bruger*|bruker*|kullanic*|kullanıc*|kayttaj*|rcptto"},
	{nNoDomain, "destination system address|domain is not reachable|recipient address has null"},
	{nSender, "postmaster verification|to send from|sender|senders|mail from|mailfrom|from domain|from address|envelope from|return path|originator|emetteur|expediteur|expéditeur|absender" +
		"|remitente|remetente|mittente|nadawca|odesilatel|odesílatel|afzender|avsandare|avsändare|gonderen|отправител*|domain may not exist|callback|return address|reply address|sending address|your account|your user|your address|author|you are not|message sending|sending for|outgoing"},
	{nSource, "ip|ips|client|your host|your server|your network|sending server|sending host|mta|connecting host" +
		"|netblock|mail server|servers|mail exchanger|your access|to connect|connection refused|connection denied|connection rejected|address 0ip|client address|remote address"},
	{nMessage, "message|messages|mail|email|body|content|attachment|attachments|nachricht|mensagem|mensaje|messaggio|wiadomosc|wiadomość|bericht|meddelande|сообщени*|письм*|mailsize"},
	{nRecipients, "recipients|rcpts|rcpt numbers|destinataires|destinatarios|destinatários|destinatari|empfanger|empfänger|receivers"},
	{nMessages, "messages|emails|mails|max message per"},
	{nConnections, "connections|connexions|sessions|concurrent|simultaneous|parallel|concurrency|conexoes|conexões|conexiones|verbindungen|connessioni|polaczen|połączeń|соединени*|подключени*|connection limit|thread limit|threads"},
	{nDomain, "domain|domains|domaine|name server|host|hostname|dominio|domäne|domena"},

	{nUnknown, "no users|handle mail for that user|user not ok|recipient cannot be verified|unknown|unrecogni*|no such|non existent|nonexistent" +
		"|unrouteable|unroutable|cannot route|undeliverable address|not listed in domino|not listed in public" +
		"|not listed in directory|not in directory|not used|doesnt have a|does not have a|hasnt got" +
		"|no longer with|nobody here|there is no one|mapiexceptionnotfound|not local user" +
		"|unbekannt*|existiert nicht|ungultige empfanger|inconnu*|nexiste pas|n existe pas|introuvable|inexist*" +
		"|desconoc*|desconhec*|sconosciut*|inesistent*|nieznan*" +
		"|neznam*|neznám*|neexist*|onbekend*|bestaat niet|okand|okänd|finns inte|ukendt|ukjent|tuntematon|ismeretlen|nepoznat*|bilinmeyen|bulunamad*|неизвест*|невідом*|нет такого|немає такого" +
		"|+recipnotfound|+recipientnotfound|+nosuchuser|bad destination mailbox address|destination mailbox address invalid|yok|mevcut degil|mevcut değil|is not here|not in my local|deliver mail for|user have no mail|no redirect entry|non existant"},
	{nInvalid, "invalid|illegal|bad|wrong|bogus|unusable|ungultig|ungueltig|ungültig|ungültige|invalide|invalido|inválido|invalida|inválida|nieprawidlowy|nieprawidłowy|neplatna|neplatný|недопустимый"},
	{nMoved, "has moved|have moved|moved to|no longer at|address has changed|has changed address|user not local please try|please try forward|new address is|no longer on server|forwarding address|ist umgezogen|a demenage"},
	{nDisabled, "previously bounced|account is expired|account has expired|no longer accepts|no longer accepting|disabl*|inactiv*|noactivity|recipient activity|deactiv*|suspend*|frozen|locked|archived|discontinued|expired account|account expired|account is blocked|account has been blocked|mailbox is blocked|mailbox blocked" +
		"|no longer valid|no longer in use|no longer available|cannot be accessed|dormant|deaktiv*|inaktiv*|gesperrt|stillgelegt|désactiv*|destinataire est bloque|archivee" +
		"|desactiv*|bloqueado|desativ*|bloqueada|ha expirado|falta de uso|disattiv*|disabilit*|sospes*|inutilizz*|nieaktywn*|zablokowan*|zrusen*|zrušen*|заблокирован*|отключен*|неактив*|terminated|abandoned|deleted|removed|geloscht|geloescht|gelöscht|supprime|supprimé|supprimée|eliminad*|eliminat*|excluida|excluída|cancellat*|usuniet*|usunięt*|smazan*|verwijderd|borttagen|slettet|silinmis|silinmiş|удален*|удалён*|account closed|closed account|mailbox closed|has been closed|is closed|closed due|status closed|enable receiving"},
	{nFull, "storage full|enough storage|enough space|mailbox full|inbox full|full mailbox|over quota|overquota|out of storage|over storage|user is over|exceeded storage|exceeds storage" +
		"|storage limit|allowed storage|exhausted allowed|no space left in mailbox|messages on the server|mails auf dem server|mailbox size limit|mailbox limit|mailbox exceeded|mailbox disk|exceeded its quota|exceeded his quota|exceeded their quota" +
		"|its storage|pleine|postfach voll|speichervolumen|ist voll|lleno|llena|cheia|piena|pelna|pełna|przepelniona|przepełniona" +
		"|plna|plná|preplnena|переполнен|is full|too much mail data|quotaexceeded*|mapiexceptionshutoffquotaexceeded|insufficient mailbox|insufficient storage for the mailbox|mailbox has exceeded|voll|uberfullt|ueberfuellt|überfüllt|vol|fullt|fuld|dolu|repleta|esgotad*|pelne|pełne|mailbox space"},
	{nQuota, "quota|quotas|contingent|credits|квот*|cuota|cota|kota|kvota|limite de espacio"},
	{nUnavailable, "account is unavailable|account unavailable|mailbox unavailable|mailbox not available|mailbox is not available|mailbox is unavailable|mailbox currently unavailable|mailbox temporarily unavailable|недоступ*"},
	{nVerify, "verify|validate|verification|verified|unverified|callout|validation|verifying|cannot check"},

	{nRefused, "unable to relay|not relaying|no longer relays|rcpthosts|allowed hosts|local user only|not local host|not a gateway|refused|refuse|refusee|rejected|rejete|reject|denied|denies|deny|blocked|block|banned|prohibited|not accepted|not accept|not accepting|will not be accepted|bounced|dropped|abgelehnt|abgewiesen|verweigert|rechazado|rechazada|rejeitado|rejeitada|rifiutato|rifiutata|odrzucon*|odmitnut*|odmítnut*|geweigerd|отклонен*|отказано|disallowed|werent sent|filtered|forbidden"},
	{nBlocked, "blocked|block|banned|bloquee|bloquée|0ip blocked|gesperrt"},
	{nListed, "чёрном списке|черном списке|czarnej liscie|lista negra|liste noire|schwarzen liste|this ip has been|ip has been temporarily blocked|ip has been blocked|ip address has been blocked|your ip is blocked|0ip listed|0ip found|block list|blocklist*|black list|blacklist*|black listed|black ip|block listed|+dnsbl*|+rbl|rbls|+spamhaus|+spamcop|+sorbs|+barracudacentral|+uribl|+hostkarma|+invaluement|+manitu|listed in|listed at|listed by|listed on|is listed|due to listing|realtime block|blocked using|+xbl|+sbl|+cbl|+mail abuse|+proofpoint com|+spamrl|+junkemailfilter|cxbl|cdrbl"},
	{nReputation, "0ip is blocked|reputation|attack|harvesting|bad behavior|bad behaviour|complaints|open relay|open proxy|banned sending ip|banned sender|spam ip|ip is rejected|permanently deferred|blocked for abuse|spammer list|spammers|blocked for an hour" +
		"|blocked for the day|has been blocked for|is blocked for|too many invalid|too many unknown|too many failed|too many bad recipients|excessive unknown recipients|invalid recipients|submit messages to this|allowed to connect|incident de spam|bad ip|must register your ip|ip control|0ip blocked|a problem occurred|dynamic ip|messages have been sent from|service refuse|service refused|unwanted messages|sbrs|senderbase|senderscore|sender score|connections from your ip|rtr du"},
	{nAuth, "spf|dkim|dmarc|arc|unauthenticated email|is unauthenticated|not authenticate|unauthenticated mail|authentication checks|sender policy framework|sender id|authentication level|authentication information|does not pass|domain authentication|domainkeys|mismatches client ip|invalid ip for sending|purported responsible|domain requires authentication|spoofed|unverifyable"},
	{nReverse, "reverse|+ptr|cannot find your|ip name lookup|helo|ehlo|forward confirmed|has no name|+rdns"},
	{nLogin, "requires authentication|auth failed|authentication failed|authentication required|authentication requise|auth required|smtp authentication|not authenticated|unauthenticated senders|must authenticate|authenticate first|smtp auth|client was not|password|credentials|login"},
	{nRelay, "relay|relays|relayed|relaying|rcpthosts|allowed hosts|gatewaying|relais|retransmision|not local|not a gateway|smtp server of your|no mail gateway|local user only|hosted|our domains|local account|handle mail"},
	{nPolicy, "access|rule|rules|approved|whitelist*|allowlist*|confirmation|no permit|not permit|policy|policies|prohibit|prohibition|not allowed|not permitted|not authorized|not authorised|unauthorized|unauthorised|permission|restricted|restriction|restrictions|preferences|doesnt want|does not want|refused by|rejected by|by recipient|by user|reject list|administrative|politique|richtlinie|restrictive|not welcome|bounce attacks|isnt allowed|legitimate bounces"},
	{nSpam, "spam*|+outboundspam*|junk|junkmail|ube|uce|unsolicited|virus|viruses|malware|phish*|infected|trojan|antispam*|antyspam*|спам*|bulk|scored|scoring|indesirable|viren|pourriel|ofr 506|ofr 513|suspicious|blacklisted url|blacklisted link|mass mailer|mass mail|+mcspam*|phone number filter"},
	{nForm, "fields|field|character set|character sets|charset|data in message|rfc 5322|rfc5322|rfc2822|rfc 2822|compliant|conform|header|headers|duplicate|malformed|bare lf|bare cr|8 bit data|attachment|attachments|macros|content|contents|url in message|contenido|characters|media|mime|security issue|data format|message format|unicode character|inhalt|file containing|url in|html|comply|conversion|words"},
	{nLoop, "points back|back to myself|received header|loop|loops|looping|hops|hop count|already has my delivered|received headers|schleife"},
	{nSize, "size|too long|large|big|message length|mailsize|zu gross|zu groß|trop volumineux|trop gros|demasiado grande|muito grande|troppo grande"},
	{nLimit, "limit|limits|threshold|лимит*|exceed|exceeds|exceeded|exceeding|maximum|over the"},

	{nRate, "0ip temporarily deferred|too many requests|rate limit|rate limited|rate limiting|ratelimit|ratelimited|rate exceeded|rate limits|too fast|too quickly|throttl*|slow down|slower|unusual rate|frequency|unexpected volume|excessive volume|unusual volume|high volume|too much mail from|too many messages|too many emails|too many e mails|too many mails|sending quota|rate quota|send rate|sending rate|submission rate|message rate|mail rate" +
		"|sending limit|send limit|relay quota|daily relay|max defers|volume limit|received too much|in a short|rl000001|rl000002|rl000003|rl000010|trop rapide|trop de messages|trop de mails|zu viele nachrichten|zu viele mails|demasiados mensajes|demasiados correos|muitas mensagens|troppi messaggi|zbyt wiele|prilis mnoho|quota exceeded for sender|policy rejection quota|recipient quota|sender quota|sender rate|emails per hour|messages per hour|message limit|sends too many|sent too many|send too many|recipients from 0ip|mail from 0ip|dyn t1"},
	{nPeriod, "hour|hourly|hours|day|daily|minute|stunde|heure|hora|giorno|godzine|short period|period of time"},
	{nTooMany, "слишком много|too many|too much|excessive|maximum number|max number|trop de|zu viele|zuviele|demasiados|demasiadas|muitos|muitas|troppi|troppe|out of allow|exceeded the number|number of"},
	{nPerConn, "per connection|per session|on this connection|in this session|in one session|in this connection|one connection|same connection|session limit|max message per|number of messages per"},
	{nOneBox, "receiving mail|mailbox received|messages to deferred|to this recipient|to this user|one mailbox|recipient thread limit|recipients per hour message receive|message receive limit|this mailbox|user is receiving|recipient has exceeded"},
	{nBusy, "busy|overloaded|overload|under load|high load|ueberlastet|überlastet|surcharge|sobrecargado"},
	{nGrey, "greylist*|graylist*|grey list|gray list|grey listed|gray listed|grey listing|gray listing|postgrey|greylst|+grey rbl|internal resource temporarily|internal resources are temporarily|first time sender|liste grise|lista gris"},
	{nAgain, "try again|please try|come back|later|retry|try another|spater|später|plus tard|mas tarde|más tarde|mais tarde|piu tardi|più tardi|pozniej|później|pozdeji|tente novamente|intentelo|attempt again|позже"},
	{nTLS, "starttls|tls|ssl|encryption|encrypted|verschlusselung|verschlüsselung|chiffrement|high strength ciphers"},

	{nSystem, "create output|io error|input output error|i o error|system error|system problem|internal error|local error|local problem|temporary failure|temporary error|temporary problem|temporary local|temporary server|temporary system|lookup failure|configuration problem|config error|configuration error|not available" +
		"|insufficient system|resources|queue|upstream|server error|in progress|memory|error in processing|database|trouble|unable to process|not accepting network|not accepting connections|system not|mta failure|server configuration|inbounds disabled|temporary recipient|operating system|server temporarily|temporariamente|temporalmente|temporairement|vorubergehend|vorübergehend|unable to connect|another server|storage failure|write error|unavailable"},
	{nDisk, "no such file|disk|no space left|storage"},
	{nTimeout, "lost incoming connection|lost connection|connection lost|timeout|timed out|time out|bad connection|connection expired|idle too long|lost input|read data from client"},
	{nLookup, "dns|name server|resolver|nameserver|doesnt resolve|does not resolve|resolving|unresolvable"},
	{nProtocol, "command|commands|syntax|characters in user name|characters in local part|bad sequence|parameter|parameters|protocol|need rcpt|need mail|valid recipients|unimplemented|not implemented|unsupported|not supported|improper sequence|argument|arguments|option|too many errors|domain name required|sequence error|amounts of data"},
	{nNullMX, "null mx|nullmx"},
	{nDomains, "destination domains|multiple domains|one domain per|different domains"},

	// A denial counts where it stands before one of the next, or before the recipient
	// (reader.notions). Where it stands after it, the two are a phrase above.
	{nNot, "no|not|non|never|cannot|cant|couldnt|doesnt|dosnt|isnt|arent|dont|hasnt|wasnt|unable|nicht|kein|keine|nessun|nessuna|ningun|ningún|nenhum|nenhuma|aucun|aucune|nao|não|nie|niet|geen|inte|ingen|ikke|не|нет"},
	{nExist, "exist|exists|existe|existiert|esiste|istnieje|existuje|существует|существуют|found|find|known|recognized|recognised|registered|handled|member|trouve|trouvé|gefunden|bekannt|vorhanden|encontrado|encontrada|trovato|trovata|znaleziono|najdeno|gevonden|hittades|fundet|найден*|зарегистрирован*|know"},
	{nInUse, "active|activated|enabled|receive|receives|receiving|logged|entered|aktiv|actif|activo|activa|ativo|ativa|attivo|attiva|aktywn*|активн*"},
	{nRejected, "rejected|reject|refused|refuse|refusee|rejete|bounced|not accepted|abgelehnt|abgewiesen|rechazad*|rejeitad*|rifiutat*|odrzucon*|odmitnut*|odmítnut*|geweigerd|отклонен*"},
	{nValid, "valid|valide|valido|válido|valida|gultig|gültig|gueltig|poprawny|platny|platný|geldig"},

	{nYahooBlock, "ts03|tss05|tss07|tss09|tss11|bl21|bl23"},
	{nYahooRate, "ts01|ts02|tss01|tss02|tss04|tss06|tss08|tss10|ipts04"},
	{nNetEaseConn, "hl icc|mi dmc|hl mmc"},
	{nNetEaseRate, "hl ifc|hl itc|mi sfq|mi ifc|rp qrc|rp esf|rp frl|mi stc|rp trc|mi cel|rp cel"},
	{nNetEaseRcpt, "rp drc|rp crc"},
	{nNetEaseList, "hl rep|hl mep|hl ihu|dt rbl|hl ipb|wm bli|wm blu|hl irb"},
	{nNetEaseSpam, "dt spm|dt spd|dt sum|dt mli|dt dmo"},
	{nLines, "line|lines|headers too|duplicate|header size limit"},
	{nNotListed, "not listed|isnt listed|not found in|blacklisted url|listed url|url in message|blacklisted link|url in"},
	{nChoice, "rejected by recipients|rejected by recipient|rejected by this user|by users reject|recipient preferences|doesnt want|does not want|by user|user entry|user domain entry|permanent failure for one or more|anti spoofing|antispoofing|dont want"},
}
