package classify

import "strings"

// listSender is the mark of an envelope sender, or a Sender field, that is an address of
// a list.
const listSender = "list's sender"

// trait is what the name of a field alone says.
type trait uint8

const (
	ofList     trait = iota + 1 // only software that serves a list writes it
	ofCampaign                  // only software that sends campaigns does
	label                       // a name that a program gives its mail: an order may be called a campaign too
)

// traits are the fields that say something by their names: those by which a list is
// posted to and joined (RFC 2369), and such of products.
var traits = map[string]trait{
	"list-post": ofList, "list-subscribe": ofList, "list-owner": ofList, "list-software": ofList,
	"mailing-list":   ofList, // ezmlm, Yahoo Groups
	"x-mailing-list": ofList, // SmartList, vger
	"x-ml-name":      ofList, // fml
	"x-mlserver":     ofList,

	"x-listmonk-campaign": ofCampaign,
	"x-mc-user":           ofCampaign, // Mailchimp
	"x-mw-campaign-uid":   ofCampaign, // MailWizz
	"x-subscriber-hash":   ofCampaign, // Mailster
	"x-mailcoach":         ofCampaign,
	"x-civimail-bounce":   ofCampaign,
	"x-camptrackid":       ofCampaign, // SuiteCRM
	"x-elqsiteid":         ofCampaign, // Eloqua

	// Words that any program may choose: shops, airlines and notices name the kind of a mail
	// so, in two or three of them at once. A product's own form of them is in campaignForm.
	"x-campaign": label, "x-campaignid": label, "x-campaign-id": label, "x-email-id": label, "x-queue-item-id": label,
}

// bulkMarks lists what speaks for bulk in a message, those of one family together.
func bulkMarks(m *Message, h headers) []Evidence {
	marks := make([]Evidence, 0, 8)
	add := func(holds bool, f Family, mark string) {
		if holds {
			marks = append(marks, Evidence{f, mark})
		}
	}
	leavable := h.has("list-unsubscribe")
	add(h.has("list-id"), listIDFamily(h), "List-Id") // RFC 2919
	// List-Unsubscribe-Post (RFC 8058) says nothing beside the field that it completes.
	add(leavable, OptInHeaders, "List-Unsubscribe") // RFC 2369
	add(h.has("feedback-id"), OptInHeaders, "Feedback-ID")
	add(h.is("precedence", "bulk", "list"), OptInHeaders, "Precedence") // junk is what autoresponders say
	add(h.has("x-csa-complaints"), OptInHeaders, "X-CSA-Complaints")

	list := h.has("x-mailman-version") && (h.has("x-beenthere") || h.is("precedence", "list")) ||
		h.has("x-loop") && h.has("x-sequence") // Sympa
	labelled, campaign := false, campaignForm(h)
	for name := range h {
		if len(name) < 6 || !strings.Contains("xlm", name[:1]) {
			continue // no name of traits, nor one of a program's own
		}
		switch t := traits[name]; {
		case t == ofList:
			list = true
		case t == label:
			labelled = true
		case t == ofCampaign || saysCampaign(name):
			campaign = true
		}
	}
	add(labelled && !campaign, OptInHeaders, "campaign label") // beside its software it is the same mark
	add(list, ListSoftware, "list software")
	add(campaign, CampaignSoftware, "campaign software")
	add(fromList(m, h), Structure, listSender)
	return marks
}

// campaignForm reports whether fields have the form that a product gives them in its
// campaigns. Their names alone would not tell: applications choose them, too.
func campaignForm(h headers) bool {
	bulk := h.is("precedence", "bulk")
	return h.has("x-messageid") && h.has("x-listmember") || // phpList
		strings.HasPrefix(h.first("x-dolibarr-trackid"), "emailing-") ||
		bulk && numbers(h.first("x-email-id")) || // Mautic, to segments
		bulk && h.has("x-queue-item-id") || // EspoCRM
		numbers(h.first("x-mailer-lid")) || // Interspire: its lists
		strings.Contains(h.first("x-report-abuse"), "campaign") // Mailchimp, MailWizz
}

// numbers reports whether a value is a number, or several with commas between them.
func numbers(v string) bool { return v != "" && strings.Trim(v, "0123456789,") == "" }

// listIDFamily says what a List-Id is worth. Any program may give its mail one, a notice
// or a password reset too. It is part of a list's structure where the receiver can leave
// the list, or is told that this is bulk; not in a program's notices, which ask that no
// automatic reply comes (X-Auto-Response-Suppress).
func listIDFamily(h headers) Family {
	if (h.has("list-unsubscribe") || h.is("precedence", "bulk")) && !h.has("x-auto-response-suppress") {
		return Structure
	}
	return OptInHeaders
}

// saysCampaign reports whether the name of a field of its own says that the mail goes
// to many.
func saysCampaign(name string) bool {
	own, ok := strings.CutPrefix(name, "x-")
	return ok && (strings.Contains(own, "newsletter") || strings.Contains(own, "bulkmail") || strings.Contains(own, "broadcast"))
}

// fromList reports whether the message comes from an address of a list: by its form in
// the envelope or the Sender field, or because the list itself stands in To or Cc in place
// of the recipient.
func fromList(m *Message, h headers) bool {
	sender := strings.ToLower(m.Sender)
	if administrative(sender) {
		return false
	}
	if isListSender(sender) {
		return true
	}
	for _, v := range h["sender"] {
		if a := addresses(v, 1); len(a) > 0 && isListSender(a[0]) && !administrative(a[0]) {
			return true
		}
	}
	local, domain, ok := strings.Cut(sender, "@")
	if !ok {
		return false
	}
	for _, name := range [...]string{"to", "cc"} {
		for _, a := range addresses(h.first(name), maxListed) {
			base, d, _ := strings.Cut(a, "@")
			rest, ok := strings.CutPrefix(local, base)
			if ok && base != "" && d == domain && rest != "" && (rest[0] == '-' || rest[0] == '+') && !m.isFor(a) {
				return true
			}
		}
	}
	return false
}

// maxListed is how many addresses of To and Cc are looked at: lists stand in front.
const maxListed = 8

// isFor reports whether an address, lower case, is one of the recipients.
func (m *Message) isFor(address string) bool {
	for i := range m.Recipients {
		if strings.EqualFold(m.Recipients[i].Address, address) {
			return true
		}
	}
	return false
}

// isListSender knows the forms that list software gives its envelope senders and that no
// person or application has: owner-LIST (Majordomo, LISTSERV), LIST-owner (Sympa),
// LIST-return-N- (ezmlm), LIST+bounces-N- (mlmmj).
func isListSender(address string) bool {
	local, _, _ := strings.Cut(address, "@")
	if len(local) > len("owner-") && strings.HasPrefix(local, "owner-") || strings.HasSuffix(local, "-owner") {
		return true
	}
	for _, mark := range [...]string{"-return-", "+bounces-"} {
		if _, after, ok := strings.Cut(local, mark); ok && after != "" && after[0] >= '0' && after[0] <= '9' {
			return true
		}
	}
	return false
}

// Addresses are the addresses of the message's fields of a name, in lower case; maxListed
// at most of each field.
func (m *Message) Addresses(name string) []string {
	var list []string
	for _, f := range m.Header {
		if strings.EqualFold(f.Name, name) {
			list = append(list, addresses(unfold(f.Value), maxListed)...)
		}
	}
	return list
}

// addresses are the first n of a field's addresses, lower case, found without a parser:
// words with an @ in them, brackets and quotes taken off.
func addresses(v string, n int) []string {
	var list []string
	for v != "" && len(list) < n {
		at := strings.IndexByte(v, '@')
		if at < 0 {
			break
		}
		const ends = " \t,;<>()\""
		end := strings.IndexAny(v[at:], ends)
		if end < 0 {
			end = len(v) - at
		}
		list = append(list, strings.ToLower(v[strings.LastIndexAny(v[:at], ends)+1:at+end]))
		v = v[at+end:]
	}
	return list
}
