package outcome

import (
	"slices"
	"strings"
	"testing"
)

// What servers say is composed of what they speak of and what they say of it. These are
// such sentences, composed, and not taken from the corpus: what is known of a kind must
// hold for all of it.

// combine calls for each text of one of both lists.
func combine(first, second string, call func(first, second string)) {
	for a := range strings.SplitSeq(first, "|") {
		for b := range strings.SplitSeq(second, "|") {
			call(a, b)
		}
	}
}

const (
	addresses = "user|recipient|mailbox|account|address|email address|e-mail address|mail address|addressee" +
		"|person|inbox|alias|username|user name|mailbox name|email account|mail account|subscriber" +
		"|local user|virtual user|local part|user account|user id|userid|recipient address" +
		"|destination address|destination mailbox|mail user|employee|mailing list|distribution list"
	others = "message|command|attachment|sender|sender address|sender domain|your domain|your IP|your host" +
		"|client host|helo name|certificate|url|file|page|server|service|your account|return path" +
		"|mail from|from address|header|parameter|domain of sender|PTR record|reverse DNS|MX record" +
		"|spf record|route|policy|rule|your server|key|dkim key|session|client|hostname" +
		"|your email address|reply-to address|envelope sender|return address|originator|sending host" +
		"|error|reason|virus|date|subject|token|password|credentials|relay|gateway|charset|extension" +
		"|option|TLS|cipher"
	isUnknown = "unknown|not found|does not exist|doesn't exist|is not known|invalid|is invalid|is not valid" +
		"|not recognised|unrecognized|not registered|is not registered here|cannot be found" +
		"|could not be found|could not be located|no longer exists|nonexistent|does not exist here" +
		"|isn't here|not known here|undefined|is not defined|is not on this system|not present" +
		"|not in database|not in our database|not listed|is incorrect|does not exist on this server" +
		"|was not found|has not been found|never existed"
	unknownAs = "no such|unknown|invalid|bad|no|there is no|can't find|unable to find|cannot find" +
		"|non-existent|nonexistent|not a valid|not a known|unrecognized|unresolvable|incorrect|wrong" +
		"|undefined|we have no such|could not find|no matching"
)

// Whatever an address is called, and however it is said that there is none: it is hard.
func TestEachWayToDenyAnAddressIsHard(t *testing.T) {
	t.Parallel()
	try := func(text string) {
		for _, status := range []string{"", "5.1.1"} {
			if d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 550, Enhanced: status, Text: text, To: "r@far.test", Born: born}); !d.Hard || d.Class != ClassUserUnknown {
				t.Errorf("550 %s %s: %v, hard %v, by %s", status, text, d.Class, d.Hard, d.Rule)
			}
		}
	}
	combine(addresses, isUnknown, func(a, b string) {
		try(a + " " + b)
		try("<r@far.test>: " + a + " " + b)
	})
	combine(unknownAs, addresses, func(a, b string) {
		try(a + " " + b)
		try(a + " " + b + " here")
		try(a + " " + b + ": r@far.test")
	})
}

// The same said of anything else is not.
func TestNoDenialOfAnotherThingIsHard(t *testing.T) {
	t.Parallel()
	try := func(text string) {
		for _, status := range []string{"", "5.1.0", "5.5.0", "5.7.1"} {
			if d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 550, Enhanced: status, Text: text, To: "r@far.test", Born: born}); d.Hard {
				t.Errorf("550 %s %s is hard: %v by %s", status, text, d.Class, d.Rule)
			}
		}
	}
	combine(others, isUnknown, func(a, b string) { try(a + " " + b) })
	combine(unknownAs, others, func(a, b string) { try(a + " " + b) })
}

// The other classes: at least 19 of 20 sentences are read, and none is hard.
func TestEachWayToSayAClass(t *testing.T) {
	t.Parallel()
	const mailbox = "user|recipient|mailbox|account|address|email address|inbox|recipient's mailbox|user account" +
		"|mail account|the recipient mailbox|this mailbox|user mailbox|the user's inbox" +
		"|destination mailbox|recipient account"
	for _, kind := range []struct {
		class  Class
		stage  Stage
		code   int
		of, is string
	}{
		{ClassMailboxFull, Rcpt, 552, mailbox,
			"full|is full|over quota|is over quota|exceeds quota|has exceeded its quota|quota exceeded" +
				"|out of space|is out of storage space|storage limit reached|has no space left" +
				"|has reached its quota|exceeded storage allocation|has exceeded the storage limit" +
				"|is over its limit|disk quota exceeded|size limit exceeded|would exceed its quota|is too full" +
				"|quota has been reached|above quota|overfull|is currently full|storage exceeded" +
				"|capacity exceeded"},
		{ClassSuspended, Rcpt, 550, mailbox,
			"disabled|is disabled|inactive|is inactive|suspended|has been suspended|locked|is blocked" +
				"|has been disabled|closed|is closed|expired|has expired|deactivated|frozen|is not active" +
				"|no longer active|terminated|on hold|is not accepting messages|no longer accepts mail" +
				"|has been deleted|temporarily disabled|is not enabled|not activated|cannot receive mail" +
				"|has been terminated|is dormant|administratively disabled|has been closed" +
				"|is currently disabled|is no longer in use|is blocked due to inactivity|archived" +
				"|is not in service|is no longer available|no longer valid|deleted|unused"},
		{ClassReputation, Rcpt, 554, "your IP|client host [192.0.2.7]|192.0.2.7|your IP address|sending IP|your mail server" +
			"|your server|IP 192.0.2.7|the sending host|connecting IP|your network|source IP|client",
			"blocked|is blocked|is listed|blacklisted|is on a blacklist|has a bad reputation|banned" +
				"|has a poor reputation|is on our block list|has been blocked|listed on an RBL" +
				"|blocked using zen.spamhaus.org|is blacklisted|found in DNSBL|temporarily blocked" +
				"|has been blacklisted|blocked by our blocklist|is in our blacklist" +
				"|is listed at bl.spamcop.net|in RBL|is denied due to bad reputation|is sending spam" +
				"|has low reputation|listed by spamhaus|has been banned|blocked for spamming" +
				"|blocked due to abuse|has been identified as a spam source"},
		{ClassContent, Data, 554, "message|your message|this message|mail|email|the message|your email|content|your mail",
			"rejected as spam|contains a virus|is spam|looks like spam|identified as spam" +
				"|classified as bulk|considered spam|detected as spam|contains spam" +
				"|rejected due to spam content|rejected by spam filter|appears to be spam|flagged as spam" +
				"|contains malware|is infected|contains prohibited attachment|contains forbidden file type" +
				"|score too high|rejected by content filter|contains illegal content|was marked as spam" +
				"|is unsolicited|contains a banned attachment|is junk|has an invalid header|headers malformed" +
				"|blocked by antivirus|contains blocked url|is suspicious|phishing detected" +
				"|rejected by anti-spam system|violates content policy|contains bad content|is malformed" +
				"|contains executable attachment|refused: spam|spam score exceeded|is likely spam" +
				"|blocked as spam"},
		{ClassTooBig, Data, 552, "message|your message|mail|email|message body",
			"too large|too big|is too large|exceeds size limit|size exceeds limit|size exceeds maximum" +
				"|size exceeds fixed maximum message size|larger than the limit|exceeds maximum size" +
				"|exceeds maximum allowed size|size too big|is larger than allowed|size limit exceeded" +
				"|exceeds the maximum message size|too long"},
		{ClassRateLimited, Mail, 421, "",
			"too many messages|sending too fast|rate limit exceeded|sending rate exceeded" +
				"|too many messages from your IP|you are sending too fast|message rate exceeded|throttled" +
				"|your traffic is throttled|slow down|too much mail|hourly limit exceeded|daily quota exceeded" +
				"|sending limit reached|too many emails per hour|exceeded the rate limit" +
				"|exceeded sending limits|too many messages in a short period|rate limited" +
				"|excessive mail volume|you have exceeded the maximum number of messages per hour" +
				"|maximum sending rate exceeded|too many requests|reduce your sending rate|sender rate limit" +
				"|traffic limit exceeded|too many recipients in the last hour|you exceeded your limit" +
				"|message quota exceeded|mail volume too high|unusual traffic"},
		{ClassConnections, Connect, 421, "",
			"too many connections|too many concurrent connections|connection limit exceeded" +
				"|too many simultaneous connections|maximum number of connections reached|too many sessions" +
				"|too many connections from your IP|too many open connections" +
				"|concurrent connection limit reached|maximum connections exceeded" +
				"|connection limit reached"},
		{ClassGreylisted, Rcpt, 450, "",
			"greylisted|greylisting in effect|you have been greylisted|greylisted, try again later" +
				"|temporarily greylisted|graylisted|grey-listed|greylisting in action" +
				"|first time sender, try later|delayed by greylisting|your mail is greylisted" +
				"|please try again later|try again in 5 minutes|temporarily deferred, please retry later"},
		{ClassAuthentication, Data, 550, "SPF|DKIM|DMARC|SPF check|DKIM signature|DMARC policy|SPF record|DKIM verification" +
			"|SPF validation",
			"failed|fail|check failed|failure|invalid|not valid|rejected|missing|violation|not aligned" +
				"|softfail|hard fail|does not match|required|verification failed|not found|error"},
		{ClassAuthentication, Rcpt, 550, "reverse DNS|PTR record|rDNS|HELO|EHLO name|HELO hostname|reverse lookup|reverse hostname",
			"failed|missing|invalid|not found|does not exist|required|mismatch|does not resolve|rejected" +
				"|is not valid|lookup failed|check failed"},
		{ClassPolicy, Rcpt, 550, "relay|relaying|relay access|mail relay",
			"denied|not permitted|not allowed|refused|prohibited|rejected|disabled|forbidden" +
				"|is not allowed|blocked"},
		{ClassPolicy, Rcpt, 550, "sender|sender address|sender domain|envelope sender|mail from|return path|from address" +
			"|your address",
			"rejected|invalid|not found|does not exist|unknown|denied|not allowed|verification failed" +
				"|does not resolve|blocked|is not authorized|not accepted|is invalid|is not valid|refused" +
				"|not permitted"},
		{ClassSystem, Rcpt, 451, "",
			"temporary failure|internal error|server error|local error in processing|system error" +
				"|service unavailable|temporary system failure|database error|temporary server error" +
				"|out of memory|insufficient system resources|mail system full|disk full|queue full" +
				"|temporary local problem|server is shutting down|system maintenance" +
				"|service temporarily unavailable|unable to process request|cannot open file" +
				"|backend unavailable|LDAP error|temporary lookup failure|internal server error" +
				"|server misconfigured|resources temporarily unavailable|system not available" +
				"|cannot connect to server|unexpected error"},
	} {
		var missed []string
		n := 0
		combine(kind.of, kind.is, func(a, b string) {
			n++
			text := strings.TrimSpace(a + " " + b)
			d := policy().Decide(born, Attempt{Stage: kind.stage, Code: kind.code, Text: text, To: "r@far.test", Born: born})
			if d.Hard {
				t.Errorf("%d %s is hard, by %s", kind.code, text, d.Rule)
			}
			if d.Class != kind.class {
				missed = append(missed, text+" ("+d.Class.String()+" by "+d.Rule+")")
			}
		})
		if 20*len(missed) > n {
			slices.Sort(missed)
			t.Errorf("%d of %d are not read as %v: %s", len(missed), n, kind.class, strings.Join(missed, ", "))
		}
	}
}

func TestOtherLanguages(t *testing.T) {
	t.Parallel()
	for _, l := range strings.Split(strings.TrimSpace(`
userunknown|rcpt 550 Empfänger unbekannt
userunknown|rcpt 550 Der Benutzer existiert nicht
userunknown|rcpt 550 Diese E-Mail-Adresse ist nicht bekannt
userunknown|rcpt 550 Das Postfach gibt es nicht
userunknown|rcpt 550 Kein solcher Benutzer
userunknown|rcpt 550 Empfaengeradresse nicht vorhanden
mailboxfull|rcpt 552 Das Postfach des Empfängers ist voll
mailboxfull|rcpt 552 Speicherplatz des Postfachs überschritten
suspended|rcpt 550 Das Konto ist gesperrt
suspended|rcpt 550 Postfach deaktiviert
content|data 554 Nachricht als Spam abgelehnt
content|data 554 Ihre E-Mail enthält einen Virus
toobig|data 552 Die Nachricht ist zu groß
system|rcpt 451 Vorübergehender Fehler, bitte versuchen Sie es später
policy|rcpt 550 Zugriff durch Richtlinie verweigert
policy|rcpt 550 Absenderadresse abgelehnt
reputation|rcpt 554 Ihre IP-Adresse steht auf einer schwarzen Liste
ratelimited|mail 450 Zu viele Nachrichten pro Stunde
connections|connect 421 Zu viele Verbindungen
userunknown|rcpt 550 Utilisateur inconnu
userunknown|rcpt 550 Le destinataire n'existe pas
userunknown|rcpt 550 Adresse introuvable
userunknown|rcpt 550 Cette boîte n'existe plus
userunknown|rcpt 550 Aucun utilisateur de ce nom
mailboxfull|rcpt 552 Boîte aux lettres pleine
mailboxfull|rcpt 552 La boite du destinataire est pleine
suspended|rcpt 550 Compte désactivé
content|data 554 Message rejeté : contenu indésirable
toobig|data 552 Message trop volumineux
reputation|rcpt 554 Votre adresse IP est en liste noire
policy|rcpt 550 Expéditeur refusé
ratelimited|mail 450 Trop de messages, veuillez réessayer plus tard
connections|connect 421 Trop de connexions
userunknown|rcpt 550 El usuario no existe
userunknown|rcpt 550 Usuario desconocido
userunknown|rcpt 550 No se encontró: buzón inexistente
userunknown|rcpt 550 La cuenta no existe en este servidor
userunknown|rcpt 550 Destinatario no encontrado
mailboxfull|rcpt 552 El buzón está lleno
mailboxfull|rcpt 552 Cuota excedida
suspended|rcpt 550 Cuenta suspendida
suspended|rcpt 550 La cuenta está deshabilitada
content|data 554 Mensaje rechazado por spam
toobig|data 552 El mensaje es demasiado grande
reputation|rcpt 554 Su IP está en lista negra
policy|rcpt 550 Remitente rechazado
ratelimited|mail 450 Demasiados mensajes
userunknown|rcpt 550 Usuário não encontrado
userunknown|rcpt 550 Destinatário inexistente
userunknown|rcpt 550 Caixa postal inexistente
userunknown|rcpt 550 Conta não existe
mailboxfull|rcpt 552 Caixa postal cheia
mailboxfull|rcpt 552 Cota excedida
suspended|rcpt 550 Conta suspensa
suspended|rcpt 550 Conta bloqueada
content|data 554 Mensagem rejeitada como spam
ratelimited|mail 450 Limite de envio excedido
userunknown|rcpt 550 Utente sconosciuto
userunknown|rcpt 550 La casella non esiste
userunknown|rcpt 550 Destinatario inesistente
mailboxfull|rcpt 552 Casella piena
suspended|rcpt 550 Casella disattivata
content|data 554 Messaggio rifiutato perché spam
userunknown|rcpt 550 Gebruiker onbekend
userunknown|rcpt 550 Dit adres bestaat niet
userunknown|rcpt 550 Ontvanger niet gevonden
mailboxfull|rcpt 552 Postbus is vol
suspended|rcpt 550 Account uitgeschakeld
userunknown|rcpt 550 Nieznany użytkownik
userunknown|rcpt 550 Użytkownik nie istnieje
userunknown|rcpt 550 Nie ma takiego konta
mailboxfull|rcpt 552 Skrzynka jest pełna
mailboxfull|rcpt 552 Skrzynka przepełniona
suspended|rcpt 550 Konto zablokowane
userunknown|rcpt 550 Uživatel neexistuje
userunknown|rcpt 550 Neznámý příjemce
mailboxfull|rcpt 552 Schránka je plná
userunknown|rcpt 550 Пользователь не найден
userunknown|rcpt 550 Неизвестный получатель
userunknown|rcpt 550 Нет такого пользователя
userunknown|rcpt 550 Адрес не существует
mailboxfull|rcpt 552 Ящик переполнен
suspended|rcpt 550 Ящик заблокирован
content|data 554 Письмо похоже на спам
userunknown|rcpt 550 用户不存在
userunknown|rcpt 550 收件人邮箱不存在
userunknown|rcpt 550 找不到该用户
mailboxfull|rcpt 552 邮箱已满
suspended|rcpt 550 该账号已停用
content|data 554 垃圾邮件拒收
reputation|rcpt 554 您的IP在黑名单中
ratelimited|mail 450 发送频率过快
userunknown|rcpt 550 宛先のメールアドレスが存在しません
userunknown|rcpt 550 ユーザが見つかりません
mailboxfull|rcpt 552 メールボックスの容量超過です
userunknown|rcpt 550 존재하지 않는 사용자입니다
mailboxfull|rcpt 552 메일함 용량 초과
suspended|rcpt 550 휴면 계정입니다
`), "\n") {
		want, rest, _ := strings.Cut(l, "|")
		stage, reply, _ := strings.Cut(rest, " ")
		code, status, text := parseReply(t, reply)
		at, _ := ParseStage(stage)
		d := policy().Decide(born, Attempt{Stage: at, Code: code, Enhanced: status, Text: text, To: "r@far.test", Born: born})
		if d.Class.String() != want || d.Hard != (want == "userunknown") {
			t.Errorf("%s: %v, hard %v, by %s; want %s", rest, d.Class, d.Hard, d.Rule, want)
		}
	}
}

// What a reply says of more than the address, or of its form, or guesses, is no lack of it;
// and who talks to nobody yet can only mean us.
func TestWhatIsNoLackOfAnAddress(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		stage Stage
		text  string
		class Class
	}{
		{Rcpt, "5.1.1 local part of the address is too long", ClassPolicy},
		{Rcpt, "5.1.3 recipient address contains non-ASCII characters", ClassPolicy},
		{Rcpt, "5.1.2 malformed recipient domain", ClassPolicy},
		{Rcpt, "the mailbox may not exist", ClassUserUnknown},
		{Rcpt, "this account might not be valid", ClassUserUnknown},
		{Rcpt, "this server does not accept mail for that, <r@far.test>", ClassPolicy},
		{Rcpt, "<r@far.test> does not accept mail from you", ClassPolicy},
		{Connect, "no thanks", ClassReputation},
		{Connect, "5.7.1 refused", ClassReputation},
		{Connect, "4.2.1 suspended", ClassReputation},
	} {
		l := line{stage: x.stage, host: "-"}
		l.code, l.status, l.text = parseReply(t, "550 "+x.text)
		d := policy().Decide(born, l.attempt())
		if d.Hard || d.Class != x.class {
			t.Errorf("%s: %v by %s, hard %v; want %v", x.text, d.Class, d.Rule, d.Hard, x.class)
		}
	}
}
