package outcome

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace/agent/elastic"
)

// rule reads a reply. Of what it names all must fit; of its texts one.
type rule struct {
	enhanced string   // "4.2.1", or ".2.1" for 4.2.1 and 5.2.1
	stages   []Stage  // empty: any
	code     int      // 421, or 4 or 5 for its first digit; 0: any
	texts    []string // lower case

	class Class
	scope *Scope        // nil: the class's
	sig   *elastic.Kind // nil: the class's
}

func (r *rule) fits(a *Attempt, text string) bool {
	if r.code != 0 && r.code != a.Code && r.code != a.Code/100 {
		return false
	}
	if r.enhanced != "" && !strings.HasSuffix(a.Enhanced, r.enhanced) {
		return false
	}
	if len(r.stages) > 0 {
		ok := false
		for _, s := range r.stages {
			ok = ok || s == a.Stage
		}
		if !ok {
			return false
		}
	}
	for _, t := range r.texts {
		if strings.Contains(text, t) {
			return true
		}
	}
	return len(r.texts) == 0
}

func of[T any](v T) *T { return &v }

// rules are the shipped readings of texts; the first that fits wins. They are
// generic: what single providers say and want is for rules of theirs. The table
// is never written to.
var rules = []rule{
	// Throttles of one mailbox, not of the site.
	{enhanced: ".2.1", texts: []string{"receiving mail at a rate", "receiving mail too quickly"}, class: ClassRateLimited, scope: of(ScopeRecipient), sig: of(elastic.Accepted)},
	{texts: []string{"excessive volume", "to this recipient are coming too fast"}, class: ClassRateLimited, scope: of(ScopeRecipient), sig: of(elastic.Accepted)},
	// So many messages on a connection, or so many recipients of a message, and
	// no more: the normal end of either.
	{texts: []string{"message per connection", "messages per connection", "messages per session", "messages in this session", "messages on this connection"}, class: ClassConnections, scope: of(ScopeHost), sig: of(elastic.Closed)},
	{enhanced: ".5.3", stages: []Stage{Rcpt, Data}, class: ClassRateLimited, scope: of(ScopeRecipient), sig: of(elastic.Accepted)}, // RFC 3463: too many recipients
	{texts: []string{"too many recipients", "multiple destination domains"}, class: ClassRateLimited, scope: of(ScopeRecipient), sig: of(elastic.Accepted)},
	{texts: []string{"too many connections", "too many concurrent", "too many simultaneous", "too many sessions", "too many smtp sessions", "concurrent connection", "simultaneous connection", "maximum number of connections", "number of connections", "connection limit", "trop de connexions"}, class: ClassConnections},
	{texts: []string{"greylist", "graylist", "grey-list", "gray-list", "postgrey"}, class: ClassGreylisted},
	{texts: []string{"unusual rate", "rate limit", "rate-limit", "ratelimit", "frequency limited", "too many messages", "too many emails", "too much mail", "too fast", "too quickly", "throttl", "unexpected volume", "slow down", "server busy", "[ts0", "[tss0"}, class: ClassRateLimited},
	{code: 421, stages: []Stage{Connect}, texts: []string{"try again later"}, class: ClassConnections},
	{code: 5, enhanced: ".1.0", stages: []Stage{Rcpt}, texts: []string{"address rejected"}, class: ClassUserUnknown},
	{code: 5, enhanced: ".4.1", stages: []Stage{Rcpt}, texts: []string{"recipient address rejected: access denied"}, class: ClassUserUnknown}, // Microsoft 365 for an address it does not have
	{code: 4, stages: []Stage{Rcpt}, enhanced: ".7.1", texts: []string{"try again later"}, class: ClassGreylisted},
	{code: 4, stages: []Stage{Mail, Data}, texts: []string{"try again later", "try later"}, class: ClassRateLimited},
	{code: 421, texts: []string{"our system has detected"}, class: ClassReputation, sig: of(elastic.RateRefused)},
	{texts: []string{"dmarc", "dkim", " spf", "(spf", "unauthenticated", "not authenticated", "reverse dns", "reverse hostname", "ptr record"}, class: ClassAuthentication},
	{texts: []string{"block list", "blocklist", "blocked using", "blacklist", "spamhaus", "spamcop", "dnsbl", " rbl", "reputation", "[bl", "banned sending ip", "listed in", "listed by", "listed at", "has been blocked"}, class: ClassReputation},
	{texts: []string{"relay access denied", "relaying denied", "relay not permitted", "unable to relay", "relaying not allowed"}, class: ClassPolicy, scope: of(ScopeSite)},
	{texts: []string{"starttls", "tls is required", "tls required", "requires tls", "encryption required"}, class: ClassTLS},
	{texts: []string{"sender address", "sender domain", "domain of sender", "sender verify", "sender rejected"}, class: ClassPolicy, scope: of(ScopeStream)},
	{texts: []string{"mailbox full", "mailbox is full", "over quota", "overquota", "quota exceeded", "exceeded storage", "out of storage", "exceeded its quota", "insufficient storage", "storage limit"}, class: ClassMailboxFull},
	{texts: []string{"account is disabled", "account has been disabled", "account disabled", "mailbox disabled", "mailbox is disabled", "is inactive", "account inactive", "account is suspended", "account has been suspended", "mailbox suspended"}, class: ClassSuspended},
	{stages: []Stage{Rcpt, Data}, texts: []string{"has moved", "no longer at this address", "address has changed", "user not local; please try"}, class: ClassHasMoved},
	{stages: []Stage{Rcpt, Data}, texts: []string{"host unknown", "unknown host", "domain not found", "domain does not exist", "no such domain"}, class: ClassHostUnknown},
	{stages: []Stage{Rcpt, Data}, texts: []string{"user unknown", "unknown user", "no such user", "no such recipient", "no such mailbox", "no such address", "no mailbox", "unknown recipient", "recipient unknown", "unknown local part", "does not exist", "doesn't exist", "user doesn't have", "invalid recipient", "invalid mailbox", "mailbox not found", "recipient not found", "recipientnotfound", "user not found", "not a valid mailbox", "account not found", "mailbox unavailable", "mailbox not available", "no account by that name", "#5.1.0 address rejected", "unrouteable address", "not our customer"}, class: ClassUserUnknown},
	{code: 5, texts: []string{"message size", "size exceeds", "too large", "too big", "maximum size"}, class: ClassTooBig},
	{texts: []string{"spam", "unsolicited", "virus", "malware", "phish", "message content", "content rejected", "content policy"}, class: ClassContent},
}

// definite is what an enhanced status says by itself. Its class digit is left out:
// whether to try again is the code's affair. ClassNone: nothing definite.
func definite(enhanced string) Class {
	subject, detail, ok := split(enhanced)
	if !ok {
		return ClassNone
	}
	switch subject {
	case 1:
		switch detail {
		case 1, 10:
			return ClassUserUnknown
		case 2:
			return ClassHostUnknown
		case 6:
			return ClassHasMoved
		}
	case 2:
		switch detail {
		case 2:
			return ClassMailboxFull
		case 3:
			return ClassSizeLimit
		}
	case 3:
		if detail == 4 {
			return ClassTooBig
		}
	case 6:
		return ClassContent
	case 7:
		switch {
		case detail == 28: // Google
			return ClassRateLimited
		case detail == 29, detail == 4, detail == 5, detail == 10:
			return ClassTLS
		case detail >= 20 && detail <= 32, detail == 509, detail == 515: // RFC 7372, RFC 8617, Google, Microsoft
			return ClassAuthentication
		case detail >= 606 && detail <= 649, detail == 511: // Microsoft: a banned address
			return ClassReputation
		}
	}
	return ClassNone
}

// broad is the last resort: the subject of the enhanced status, or the code.
func broad(a *Attempt) Class {
	if subject, detail, ok := split(a.Enhanced); ok && (subject != 0 || detail != 0) {
		switch subject {
		case 1:
			return ClassPolicy
		case 2:
			return ClassSuspended
		case 3:
			return ClassSystem
		case 4:
			return ClassNetwork
		case 5:
			return ClassProtocol
		case 7:
			// Microsoft's 4.7.500 to 4.7.699 are "server busy".
			if detail >= 500 && detail <= 699 && a.Code/100 == 4 {
				return ClassRateLimited
			}
			return ClassPolicy
		}
	}
	switch {
	case a.Code/100 == 4:
		return ClassSystem
	case a.Code == 551:
		return ClassHasMoved
	case a.Code == 552:
		return ClassMailboxFull
	case a.Code >= 500 && a.Code <= 504, a.Code == 555, a.Code/100 != 5:
		return ClassProtocol
	case a.Code == 530:
		return ClassTLS
	}
	return ClassUndefined
}

// split takes "5.7.26" apart (RFC 3463 section 2).
func split(enhanced string) (subject, detail int, ok bool) {
	parts := strings.Split(enhanced, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || len(parts[1]) > 3 || len(parts[2]) > 3 {
		return 0, 0, false
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "0123456789") != "" {
			return 0, 0, false
		}
	}
	subject, _ = strconv.Atoi(parts[1])
	detail, _ = strconv.Atoi(parts[2])
	return subject, detail, true
}
