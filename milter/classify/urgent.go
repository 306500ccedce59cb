package classify

import (
	"slices"
	"strings"
)

// urgent says why mail that may look like bulk must not wait behind it, or "". These
// signs are of whoever sends the message as it is, of list software too.
func urgent(m *Message, h headers) string {
	switch {
	case h.is("x-list-administrivia", "yes"), // Mailman 2
		administrative(m.Sender) && !h.has("list-post"), // SmartList and W3C send posts by LIST-request
		h.has("x-mailman-version") && h.is("precedence", "bulk") && !h.has("list-post") && // Mailman 3; posts and digests say list
			!(h.has("x-beenthere") && h.has("list-id")), // a post of Mailman 1 and 2
		h.is("x-messageid", "systemmessage"),                         // phpList
		strings.HasPrefix(h.first("delivered-to"), "responder for "): // ezmlm
		return "notice of list software"
	case h.has("x-autoreply"), h.has("x-autorespond"), h.has("x-autoresponder"), h.has("x-auto-response"),
		h.is("precedence", "auto_reply"):
		return "automatic reply"
	case h.is("importance", "high"), h.is("priority", "urgent"), h.is("precedence", "first-class", "special-delivery"):
		return "marked as urgent"
	case transactional(h):
		return "marked as transactional"
	case h.has("x-cron-env"):
		return "cron mail"
	case forwarded(h):
		// A user's forwarding comes from loopback too, with the signs of whoever wrote it.
		return "forwarded"
	}
	for _, v := range h["x-priority"] {
		if strings.HasPrefix(v, "1") || strings.HasPrefix(v, "2") {
			return "marked as urgent"
		}
	}
	return ""
}

// urgentUnlessPosted says the same by what an author's program writes: on a list's post
// or a campaign it is no word about how that is sent.
func urgentUnlessPosted(m *Message, h headers) string {
	switch {
	case administrative(m.Sender):
		return "notice of list software"
	case strings.HasPrefix(strings.ToLower(h.first("content-type")), "text/calendar"),
		h.is("content-class", "urn:content-classes:calendarmessage"): // Exchange
		return "calendar invitation"
	case h.has("x-forwarded-to"), h.has("x-forwarded-for"): // Gmail; on a post they tell how it came to the list
		return "forwarded"
	case h.has("in-reply-to"), h.has("references"):
		return "reply"
	}
	return ""
}

// isGenerated is the reason why a notice stays.
const isGenerated = "Auto-Submitted: auto-generated"

// generated reports whether a program has written the message by itself (RFC 3834): a
// notice, an alert, cron's mail, or what a forum makes of the week. Replies are vetoed
// before.
func generated(h headers) bool {
	return slices.ContainsFunc(h["auto-submitted"], func(v string) bool { return autoSubmitted(v) != "no" })
}

// administrative reports whether a sender is one of the addresses by which list software
// talks about subscriptions, one to one.
func administrative(sender string) bool {
	local, _, _ := strings.Cut(strings.ToLower(sender), "@")
	base, _, _ := strings.Cut(local, "+")
	for _, suffix := range [...]string{"-confirm", "-request", "-subscribe", "-unsubscribe", "-join", "-leave"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	base = strings.TrimPrefix(base, "owner-")
	for _, suffix := range [...]string{"-bounces", "-owner"} {
		base = strings.TrimSuffix(base, suffix)
	}
	switch base {
	case "mailman", "sympa", "majordomo", "listserv", "listproc", "mlmmj", "ezmlm":
		return true
	}
	return false
}

// maxSaid is how far into a field's value a word is looked for, in octets.
const maxSaid = 512

// transactional reports whether a field of the sender's own calls the mail
// transactional, in its name or its value. The fields that mailers have for it are many:
// X-Message-Type, X-Delivery, X-Category, X-PM-Message-Stream, X-MSYS-API.
func transactional(h headers) bool {
	for name, values := range h {
		if name == "feedback-id" {
			for _, v := range values {
				if transactionalFeedback(v) {
					return true
				}
			}
			continue
		}
		if !strings.HasPrefix(name, "x-") {
			continue
		}
		if strings.Contains(name, "transactional") {
			return true
		}
		for _, v := range values {
			// However it begins: that is quicker than to fold the case.
			if v = v[:min(len(v), maxSaid)]; strings.Contains(v, "ransactional") || strings.Contains(v, "RANSACTIONAL") {
				return true
			}
		}
	}
	return h.is("x-pm-message-stream", "outbound") // Postmark's stream for such mail
}

// transactionalFeedback reports whether a Feedback-ID names transactional as
// one of its parts, which Gmail's specification leaves to the sender:
// campaign:customer:type of mail:sender.
func transactionalFeedback(id string) bool {
	for part := range strings.SplitSeq(strings.ToLower(id), ":") {
		if part = strings.TrimSpace(part); part == "transactional" || part == "transaction" {
			return true
		}
	}
	return false
}

// forwarded reports whether somebody sends on what was sent to him: by hand or by a
// filter (RFC 5322 3.6.6, Sieve, Gmail), by an alias service, or by a program that
// fetched it from a mailbox.
func forwarded(h headers) bool {
	if h.has("x-sieve") || h.has("x-sieve-redirected-from") ||
		h.has("x-simplelogin-type") || h.has("x-simplelogin-envelope-from") || h.has("x-anonaddy-original-sender") {
		return true
	}
	if from := h.first("resent-from"); from != "" && !ownResent(h, from) {
		return true
	}
	// The last hop before this host is the newest field, the first one.
	last := h.first("received")
	last = last[:min(len(last), maxSaid)]
	return strings.Contains(last, "fetchmail") || strings.Contains(last, "getmail")
}

// ownResent reports whether a Resent-From is the list's own, as SmartList (Debian, W3C)
// writes it on each post: an address that the list's fields name.
func ownResent(h headers, from string) bool {
	for _, a := range addresses(from, 1) {
		for _, name := range [...]string{"list-post", "x-mailing-list"} {
			for _, v := range h[name] {
				if strings.Contains(strings.ToLower(v[:min(len(v), maxSaid)]), a) {
					return true
				}
			}
		}
	}
	return false
}
