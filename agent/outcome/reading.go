package outcome

import (
	"strings"

	"github.com/millrace/millrace/agent/elastic"
)

// reading is what an attempt says by itself, whatever the policy.
type reading struct {
	end      ending
	class    Class
	scope    Scope
	sig      elastic.Kind
	enhanced string
	rule     int     // index of the generic rule that fitted, -1: none
	effect   *Effect // of the policy's rule that fitted, nil: none
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
	r := reading{rule: -1, enhanced: a.Enhanced}
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
	if known != nil && known.Class != ClassNone {
		r.class = known.Class
	} else {
		r.class, r.rule = classify(a, r.enhanced)
	}
	r.scope = r.class.scope(a.Stage)
	if r.rule >= 0 && rules[r.rule].scope != nil {
		r.scope = *rules[r.rule].scope
	}
	r.sig = signal(a, &r)
	if r.rule >= 0 && rules[r.rule].sig != nil && a.Stage != Connect {
		r.sig = *rules[r.rule].sig
	}

	// A 5xx before MAIL, or for want of TLS, is about the host and us, not about
	// the message. A reply that is neither 4xx nor 5xx is no refusal of anything.
	r.end = temporary
	if a.Code/100 == 5 && a.Stage != Connect && r.class != ClassTLS && !r.class.throttle() {
		r.end = permanent
	}
	if known != nil {
		r.apply(known, a)
	}
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

// classify reads a reply: definite enhanced statuses, then texts, then what is
// left. It also returns which rule fitted, or -1.
func classify(a *Attempt, enhanced string) (Class, int) {
	if a.Stage == TLS {
		return ClassTLS, -1
	}
	if c := definite(enhanced); c != ClassNone {
		return c, -1
	}
	b := *a
	b.Enhanced = enhanced
	text := strings.ToLower(withoutAddresses(without(a.Text, a.To)))
	for i := range rules {
		if rules[i].fits(&b, text) {
			return rules[i].class, i
		}
	}
	return broad(&b), -1
}

// withoutAddresses leaves out what stands in angle brackets and has an @: the
// mailbox spam@example.com that is full is not spam.
func withoutAddresses(s string) string {
	for from := 0; ; {
		open := strings.IndexByte(s[from:], '<')
		if open < 0 {
			return s
		}
		open += from
		n := strings.IndexByte(s[open:], '>')
		if n < 0 {
			return s
		}
		if strings.Contains(s[open:open+n], "@") {
			s = s[:open] + s[open+n+1:]
			from = open
		} else {
			from = open + n + 1
		}
	}
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

// signal is what a refusal tells the controller.
func signal(a *Attempt, r *reading) elastic.Kind {
	switch {
	case r.class == ClassConnections:
		return elastic.Refused
	case a.Stage == Connect || a.Stage == TLS:
		if a.Stage == Connect && (a.Code == 421 || r.class.throttle()) {
			return elastic.Refused
		}
		return elastic.Failed // this host does not talk to us
	case r.class == ClassRateLimited && r.scope == ScopeSite:
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
	r := reading{rule: -1}
	set := func(e ending, c Class, s Scope, k elastic.Kind, enhanced string) reading {
		r.end, r.class, r.scope, r.sig, r.enhanced = e, c, s, k, enhanced
		return r
	}
	switch a.Fault {
	case NXDomain:
		return set(permanent, ClassHostUnknown, ScopeSite, elastic.Failed, "5.1.2")
	case NullMX:
		return set(permanent, ClassHostUnknown, ScopeSite, elastic.Failed, "5.1.10") // RFC 7505 section 4.1
	case DNSFailed:
		return set(temporary, ClassNetwork, ScopeSite, elastic.Failed, "4.4.3")
	case NoAddress: // of our protocols; the host may have others
		return set(unfit, ClassNetwork, ScopeSite, elastic.Failed, "5.4.4")
	case Loop:
		return set(unfit, ClassNetwork, ScopeSite, elastic.Failed, "5.4.6")
	case RefusedAddress:
		return set(unfit, ClassPolicy, ScopeSite, elastic.Failed, "5.7.0")
	case Unreachable:
		return set(temporary, ClassNetwork, ScopeHost, elastic.Failed, "4.4.1")
	case LostConnection:
		k := elastic.Lost
		if a.Stage == Connect || a.Stage == TLS {
			k = elastic.Failed
		}
		return set(temporary, ClassNetwork, ScopeHost, k, "4.4.2")
	case InDoubt:
		return set(temporary, ClassNetwork, ScopeHost, elastic.Lost, "4.4.2")
	case TLSFailed:
		return set(temporary, ClassTLS, ScopeHost, elastic.Failed, "4.7.5")
	case NeedsExtension:
		return set(unfit, ClassProtocol, ScopeHost, elastic.Accepted, "5.6.3")
	case Oversize:
		return set(permanent, ClassTooBig, ScopeHost, elastic.Accepted, "5.3.4")
	case Unreadable:
		return set(damaged, ClassSystem, ScopeRecipient, elastic.Accepted, "5.3.0")
	}
	return set(temporary, ClassSystem, ScopeRecipient, elastic.Accepted, "4.3.0")
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
	case Unreadable:
		return "the spooled content cannot be read"
	}
	return "internal failure"
}
