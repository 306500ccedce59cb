package classify

import "strings"

// OptIn is the field by which a program says itself what its mail is:
// "X-Millrace: divert" or "X-Millrace: leave". It decides after the admin's
// rules and before any other evidence.
const OptIn = "X-Millrace"

// evidence is the built-in rule. It returns true for bulk; false with a reason
// for mail that carries a sign that it is not; false without one for doubt.
func evidence(m *Message, h headers) (bool, string) {
	switch strings.ToLower(h.first("x-millrace")) {
	case "divert":
		return true, "asked by X-Millrace"
	case "leave":
		return false, "asked by X-Millrace"
	}
	if why := urgent(m, h); why != "" {
		return false, why
	}
	signs := bulkSigns(h)
	if len(signs) < 2 {
		return false, ""
	}
	return true, strings.Join(signs, ", ")
}

// bulkSigns lists the independent signs of bulk mail.
func bulkSigns(h headers) []string {
	var signs []string
	add := func(holds bool, name string) {
		if holds {
			signs = append(signs, name)
		}
	}
	add(h.has("list-id"), "List-Id") // RFC 2919
	// List-Unsubscribe-Post (RFC 8058) is no sign beside the field it completes.
	add(h.has("list-unsubscribe"), "List-Unsubscribe") // RFC 2369
	add(h.has("feedback-id"), "Feedback-ID")
	add(h.is("precedence", "bulk", "list"), "Precedence") // junk is what autoresponders say
	add(h.has("x-csa-complaints"), "X-CSA-Complaints")
	add(h.has("x-beenthere") && h.has("x-mailman-version") || // Mailman
		h.has("x-listmonk-campaign") || // listmonk
		h.has("x-messageid") && h.has("x-listmember") || // phpList
		h.has("x-email-id") || // Mautic
		h.has("x-loop") && h.has("x-sequence"), // Sympa
		"list software")
	return signs
}

// urgent says why mail that may look like bulk must not wait behind it, or "".
func urgent(m *Message, h headers) string {
	switch {
	case h.is("x-list-administrivia", "yes"), administrative(m.Sender):
		return "notice of list software"
	case h.has("x-autoreply"), h.has("x-autorespond"), h.has("x-autoresponder"), h.has("x-auto-response"):
		return "automatic reply"
	case h.is("importance", "high"), h.is("priority", "urgent"), h.is("precedence", "first-class", "special-delivery"):
		return "marked as urgent"
	case h.is("x-message-type", "transactional"), h.is("x-mail-type", "transactional"), h.has("x-transactional"),
		h.is("x-pm-message-stream", "outbound", "transactional"):
		return "marked as transactional"
	}
	for _, v := range h["x-priority"] {
		if strings.HasPrefix(v, "1") || strings.HasPrefix(v, "2") {
			return "marked as urgent"
		}
	}
	if strings.HasPrefix(strings.ToLower(h.first("content-type")), "text/calendar") {
		return "calendar invitation"
	}
	if h.has("in-reply-to") && !h.has("list-id") {
		return "reply"
	}
	return ""
}

// administrative reports whether a sender is one of the addresses by which
// Mailman, Sympa and ezmlm talk about subscriptions, one to one.
func administrative(sender string) bool {
	local, _, _ := strings.Cut(strings.ToLower(sender), "@")
	base, _, _ := strings.Cut(local, "+")
	for _, suffix := range []string{"-confirm", "-request", "-subscribe", "-unsubscribe", "-join", "-leave"} {
		if strings.HasSuffix(base, suffix) {
			return true
		}
	}
	return base == "mailman" || base == "sympa" || base == "mailman-bounces"
}

// is reports whether a field of the name has one of the values, case folded.
func (h headers) is(name string, values ...string) bool {
	for _, v := range h[name] {
		for _, w := range values {
			if strings.EqualFold(v, w) {
				return true
			}
		}
	}
	return false
}
