package outcome

import (
	"cmp"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// reading is what an attempt says by itself, whatever the policy.
type reading struct {
	end      ending
	class    Class
	hard     bool
	sig      elastic.Kind
	enhanced string
	rule     string        // what read it; NoRule if nothing did, "" if no server refused
	wait     time.Duration // that the reply names
	effect   *Effect       // of the policy's rule that fitted, nil: none
}

// ending is how an attempt ended.
type ending uint8

const (
	delivered ending = iota
	temporary
	permanent // said by the remote server, or beyond doubt
	unfit     // permanent, but only as far as we can tell
	damaged
)

// NoRule is Decision.Rule of a reply that neither a rule nor a reading knew.
const NoRule = "none"

// read makes out what happened.
func read(a *Attempt, about []Rule) reading {
	if a.Code <= 0 && a.Fault == Garbled {
		// The words count as if they had come with a code that says "not now".
		said := *a
		said.Code, said.Enhanced = 450, ""
		r := read(&said, about)
		r.enhanced = "4.5.0"
		return r
	}
	if a.Code <= 0 {
		return readFault(a)
	}
	r := reading{enhanced: a.Enhanced}
	if _, _, ok := split(r.enhanced); !ok || int(r.enhanced[0]-'0') != a.Code/100 {
		r.enhanced = "" // RFC 2034: the first digits must agree
	}
	if a.Code/100 == 2 {
		if r.enhanced == "" {
			r.enhanced = "2.0.0"
		}
		return r
	}
	known := match(about, a, r.enhanced)
	x := shipped.classify(a, r.enhanced)
	r.class, r.rule, r.wait = x.class, x.name, x.wait
	if known != nil {
		r.rule = known.Name
		if known.Class != ClassNone {
			r.class, x.sig, x.ofRecipient = known.Class, nil, known.Class.Hard()
		}
	}
	r.sig = signal(a, r.class)
	if x.sig != nil && a.Stage != Connect {
		r.sig = *x.sig
	}

	// A 5xx before MAIL, or for want of TLS, is about the host and us, not about the
	// message; a throttle and distrust of our host pass. A reply that is neither 4xx nor
	// 5xx is no refusal of anything.
	r.end = temporary
	if a.Code/100 == 5 && a.Stage != Connect && !r.class.passes() {
		r.end = permanent
	}
	if known != nil {
		r.apply(known, a)
	}
	r.hard = r.end == permanent && r.class.Hard() && x.ofRecipient
	switch {
	case r.enhanced == "" && r.end == permanent:
		r.enhanced = "5.0.0"
	case r.enhanced == "":
		r.enhanced = "4.0.0"
	case r.end == temporary && r.enhanced[0] == '5':
		r.enhanced = "4" + r.enhanced[1:] // the status of a deferral, as Postfix does it
	case r.end == permanent && r.enhanced[0] == '4':
		r.enhanced = "5" + r.enhanced[1:]
	}
	return r
}

// sense is what a reply says by its stage, status and words.
type sense struct {
	class       Class
	name        string
	sig         *elastic.Kind
	ofRecipient bool // words and status speak of the recipient's address
	wait        time.Duration
}

// tables are what a reply is read with.
type tables struct {
	words    lexicon
	readings []rule
}

// shipped is never written to.
var shipped = tables{newLexicon(nil), readings}

// classify reads a reply: by the readings, by its status, by its code.
func (t *tables) classify(a *Attempt, enhanced string) sense {
	if a.Stage == TLS {
		return sense{class: ClassTLS, name: "starttls"}
	}
	local, domain, _ := strings.Cut(a.To, "@")
	var text reader
	text.split(a.Text, local)
	found := text.notions(&t.words)
	if a.Stage == Connect || a.Stage == Mail {
		found &^= nDisabled // no mailbox was named yet
	}
	if enhanced == "" {
		enhanced = statusInText(a.Text[:min(len(a.Text), maxOctets)])
	}
	st := statusOf(enhanced)
	x := sense{}
	if a.Code/100 == 4 {
		x.wait = text.wait(found&nGrey != 0)
	}
	for i := range t.readings {
		if r := &t.readings[i]; r.fits(a, st, found) {
			x.class, x.name, x.sig = r.class, r.name, r.sig
			break
		}
	}
	if x.class == ClassNone {
		if x.class = st.meaning(a); x.class == ClassNone {
			x.class, x.name = meaningOfCode(a), NoRule
		} else if x.name = "status"; st.vague() {
			x.name = NoRule
		}
	}
	if x.class == ClassTooManyRecipients && a.First && a.Stage == Rcpt {
		// One recipient is not too many for a message: the limit is one of the connection, which
		// has had its part, or else one in time.
		if x.class, x.sig = ClassRateLimited, nil; a.Used {
			x.class, x.sig = ClassConnections, of(elastic.Closed)
		}
	}
	// The words may be unknown, and say nothing else: then an address that the status
	// calls bad is so. Something unknown is an address only if one is mentioned, and a
	// domain by name is the recipient's only if it is that one.
	x.ofRecipient = (a.Stage == Rcpt || a.Stage == Data) && st.ofRecipient() && found&nSender == 0 && !text.guess &&
		(found&ofRecipient != 0 || found&^says == 0 && st.subject == 1) &&
		(found&nUnnamed == 0 || found&nRecipient != 0 || st.subject == 1 && st.detail != 0 || text.addresses > 0) &&
		(x.class != ClassHostUnknown || st.subject == 1 || st == status{4, 4} || text.hosts == 0 && found&nNoDomain != 0 || names(a.Text, domain)) &&
		!(a.Stage == Data && a.Shared && !names(a.Text, a.To))
	return x
}

// ofRecipient are the notions that speak of a recipient's address.
const ofRecipient = nRecipient | nUnknown | nNoDomain | nMoved | nUnavailable | nNullMX | nTakesNone | nInvalid

// says are the notions that leave open whom a refusal is about.
const says = nMessage | nMessages | nDomain | nRefused | nNot | nExist | nValid | nAgain

// names says whether a reply repeats the recipient's address.
func names(text, to string) bool {
	if to == "" {
		return false
	}
	for i := 0; i+len(to) <= len(text); i++ {
		if strings.EqualFold(text[i:i+len(to)], to) {
			return true
		}
	}
	return false
}

// without leaves out a word or address, whatever its case, where it stands by itself.
func without(s, word string) string {
	if word == "" {
		return s
	}
	for i := 0; i+len(word) <= len(s); i++ {
		end := i + len(word)
		if strings.EqualFold(s[i:end], word) && (i == 0 || !inAddress(s[i-1])) && (end == len(s) || !inAddress(s[end])) {
			s = s[:i] + s[end:]
			i--
		}
	}
	return s
}

// inAddress says whether an octet would make another address of the one beside it.
// A dot or quote ends a sentence, too.
func inAddress(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("+-=@_", c) >= 0
}

// signal is what a refusal tells the controller: one too many, too fast, or neither.
func signal(a *Attempt, c Class) elastic.Kind {
	switch {
	case c == ClassConnections:
		return elastic.Refused
	case a.Stage == Connect || a.Stage == TLS:
		if a.Stage == Connect && (a.Code == 421 || c.throttle()) {
			return elastic.Refused
		}
		return elastic.Failed // this host does not talk to us
	case c == ClassRateLimited, c == ClassReputation && a.Code/100 == 4: // who is distrusted for now is to send less
		return elastic.RateRefused
	case a.Code == 421 && a.Stage == Mail:
		return elastic.Refused
	case a.Code == 421:
		return elastic.Lost // the server closes after it
	}
	return elastic.Accepted // the server worked
}

// readFault is what each fault amounts to.
func readFault(a *Attempt) reading {
	set := func(e ending, c Class, k elastic.Kind, enhanced string) reading {
		return reading{end: e, class: c, sig: k, enhanced: enhanced, hard: e == permanent && c.Hard()}
	}
	switch a.Fault {
	case NXDomain:
		return set(permanent, ClassHostUnknown, elastic.Failed, "5.1.2")
	case NullMX:
		return set(permanent, ClassHostUnknown, elastic.Failed, "5.1.10") // RFC 7505 section 4.1
	case DNSFailed:
		return set(temporary, ClassNetwork, elastic.Failed, "4.4.3")
	case NoAddress: // of our protocols; the host may have others
		return set(unfit, ClassNetwork, elastic.Failed, "5.4.4")
	case Loop:
		return set(unfit, ClassNetwork, elastic.Failed, "5.4.6")
	case RefusedAddress:
		return set(unfit, ClassPolicy, elastic.Failed, "5.7.0")
	case Unreachable:
		return set(temporary, ClassNetwork, elastic.Failed, "4.4.1")
	case LostConnection:
		k := elastic.Lost
		if a.Stage == Connect || a.Stage == TLS {
			k = elastic.Failed
		}
		return set(temporary, ClassNetwork, k, "4.4.2")
	case InDoubt:
		return set(temporary, ClassNetwork, elastic.Lost, "4.4.2")
	case TLSFailed:
		return set(temporary, ClassTLS, elastic.Failed, "4.7.5")
	case NeedsExtension:
		return set(unfit, ClassProtocol, elastic.Accepted, "5.6.3")
	case Oversize:
		return set(permanent, ClassTooBig, elastic.Accepted, "5.3.4")
	case Rejected:
		return set(permanent, ClassPolicy, elastic.Accepted, cmp.Or(a.Enhanced, "5.7.1"))
	case Unreadable:
		return set(damaged, ClassSystem, elastic.Accepted, "5.3.0")
	}
	return set(temporary, ClassSystem, elastic.Accepted, "4.3.0")
}

// String says in a few words what failed.
func (f Fault) String() string {
	switch f {
	case NXDomain:
		return "the domain does not exist"
	case NullMX:
		return "the domain takes no mail (null MX)"
	case DNSFailed:
		return "the name service gave no answer"
	case NoAddress:
		return "the domain's mail hosts have no address that can be used"
	case Loop:
		return "the domain's best mail host is this host"
	case RefusedAddress:
		return "the domain's mail hosts have refused addresses only"
	case Unreachable:
		return "no connection"
	case LostConnection:
		return "the connection was lost"
	case InDoubt:
		return "the connection was lost before the message was acknowledged"
	case TLSFailed:
		return "no TLS as required"
	case NeedsExtension:
		return "the server lacks an extension that the message needs"
	case Oversize:
		return "the message is too big for the server"
	case Garbled:
		return "the server said something that is no reply"
	case Rejected:
		return "the configuration rejects mail to these hosts"
	case Unreadable:
		return "the spooled content cannot be read"
	}
	return "internal failure"
}
