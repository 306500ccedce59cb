package classify

import "strings"

// OptIn is the field by which a program says itself what its mail is:
// "X-Millrace: divert" or "X-Millrace: leave". It decides after the admin's
// rules and before any other evidence.
const OptIn = "X-Millrace"

// finding is what the built-in evidence says.
type finding int

const (
	doubt finding = iota
	bulk
	notBulk
)

// evidence is the built-in rule, and why. recipients is how many of them could
// be diverted.
func (c *Classifier) evidence(m *Message, h headers, recipients int) (finding, string) {
	switch strings.ToLower(h.first("x-millrace")) {
	case "divert":
		return bulk, "asked by X-Millrace"
	case "leave":
		return notBulk, "asked by X-Millrace"
	}
	if why := urgent(m, h); why != "" {
		return notBulk, why
	}
	switch signs := bulkSigns(h); len(signs) {
	case 0:
		return doubt, "no evidence of bulk"
	case 1:
		if whose := c.volumeOf(m, h, recipients); whose != "" {
			return bulk, signs[0] + ", volume of the " + whose
		}
		return doubt, "no evidence of bulk but " + signs[0]
	default:
		return bulk, strings.Join(signs, ", ")
	}
}

// volumeOf counts a message that has one sign of bulk. It names what has had
// more recipients within the window than a person or a program that talks to
// one customer at a time: "sender", "List-Id", or "" for neither.
func (c *Classifier) volumeOf(m *Message, h headers, recipients int) string {
	if c.many == 0 {
		return ""
	}
	whose := ""
	if c.volume.add("sender "+SenderKey(m.Sender), recipients, m.Arrived, c.window) > c.many {
		whose = "sender"
	}
	if id := clean(listID(h)); id != "" && c.volume.add("list "+id, recipients, m.Arrived, c.window) > c.many {
		whose = "List-Id"
	}
	return whose
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
		h.has("x-loop") && h.has("x-sequence") || // Sympa
		h.has("mailing-list") || // ezmlm
		h.has("x-campaign") || h.has("x-campaignid") || h.has("x-campaign-id") || h.has("x-mw-campaign-uid"), // Mailchimp, MailWizz and kin
		"list software")
	return signs
}

// urgent says why mail that may look like bulk must not wait behind it, or "".
func urgent(m *Message, h headers) string {
	for _, v := range h["auto-submitted"] {
		// Notices, alerts, cron: RFC 3834's word for what a program writes by itself.
		if autoSubmitted(v) != "no" {
			return "Auto-Submitted: auto-generated"
		}
	}
	switch {
	case h.is("x-list-administrivia", "yes"), administrative(m.Sender), // Mailman 2
		h.has("x-mailman-version") && h.is("precedence", "bulk") && !h.has("list-post"), // Mailman 3; posts and digests say list
		h.is("x-messageid", "systemmessage"),                                            // phpList
		strings.HasPrefix(h.first("delivered-to"), "responder for "):                    // ezmlm
		return "notice of list software"
	case h.has("x-autoreply"), h.has("x-autorespond"), h.has("x-autoresponder"), h.has("x-auto-response"),
		h.is("precedence", "auto_reply"):
		return "automatic reply"
	case h.is("importance", "high"), h.is("priority", "urgent"), h.is("precedence", "first-class", "special-delivery"):
		return "marked as urgent"
	case h.is("x-message-type", "transactional"), h.is("x-mail-type", "transactional"), h.has("x-transactional"),
		h.is("x-pm-message-stream", "outbound", "transactional"), transactionalFeedback(h.first("feedback-id")):
		return "marked as transactional"
	case h.has("x-cron-env"):
		return "cron mail"
	case h.has("resent-from"), h.has("x-sieve-redirected-from"), h.has("x-forwarded-to"):
		// A user's forwarding comes from loopback too, with the signs of whoever wrote it.
		return "forwarded"
	}
	for _, v := range h["x-priority"] {
		if strings.HasPrefix(v, "1") || strings.HasPrefix(v, "2") {
			return "marked as urgent"
		}
	}
	if strings.HasPrefix(strings.ToLower(h.first("content-type")), "text/calendar") ||
		h.is("content-class", "urn:content-classes:calendarmessage") { // Exchange
		return "calendar invitation"
	}
	if h.has("in-reply-to") && !h.has("list-id") && !h.has("mailing-list") { // a list's copy has one of them

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
