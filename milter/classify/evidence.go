package classify

import (
	"slices"
	"strings"
)

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

// maxEvidence bounds what a Decision lists, in octets of a line of the log.
const maxEvidence = 256

// Family is a kind of evidence. Marks of one family have one cause and count once.
type Family string

// The families; the package comment says what each proves.
const (
	OptInHeaders     Family = "opt-in"
	ListSoftware     Family = "list-software"
	CampaignSoftware Family = "campaign-software"
	Structure        Family = "structure"
	ByVolume         Family = "volume"
)

// Evidence is one mark of bulk that a message has.
type Evidence struct {
	Family Family
	Mark   string // a field's name, or a few words
}

// String is "family: mark".
func (e Evidence) String() string { return string(e.Family) + ": " + e.Mark }

// Families lists the families of evidence, each once, comma between them; "" for none.
func Families(list []Evidence) string {
	var names []string
	for _, e := range list {
		if !slices.Contains(names, string(e.Family)) {
			names = append(names, string(e.Family))
		}
	}
	return strings.Join(names, ",")
}

// evidence is the built-in rule: its finding, the marks behind it, and why. recipients
// is how many of them could be diverted.
func (c *Classifier) evidence(m *Message, h headers, recipients int) (finding, []Evidence, string) {
	switch strings.ToLower(h.first("x-millrace")) {
	case "divert":
		return bulk, nil, "asked by X-Millrace"
	case "leave":
		return notBulk, nil, "asked by X-Millrace"
	}
	marks := bulkMarks(m, h)
	several := slices.ContainsFunc(marks, func(e Evidence) bool { return e.Family != marks[0].Family })
	if why := urgent(m, h); why != "" {
		return notBulk, nil, why
	}
	byProgram := several && program(marks)
	if !byProgram {
		if why := urgentUnlessPosted(m, h); why != "" {
			return notBulk, nil, why
		}
	}
	// What a program wrote by itself is a notice, unless its receivers can unsubscribe and many
	// got the same.
	notice := !byProgram && generated(h)
	if notice && !h.has("list-unsubscribe") {
		return notBulk, nil, isGenerated
	}
	switch {
	case several && !notice:
		return bulk, marks, names(marks)
	case len(marks) == 0:
		return doubt, nil, "no evidence of bulk"
	case c.muchOf(m, h, recipients):
		marks = append(marks, Evidence{ByVolume, "volume of the sender"}) // of one subject
		return bulk, marks, names(marks)
	case notice:
		return notBulk, nil, isGenerated
	}
	return doubt, marks, "no evidence of bulk but " + names(marks)
}

// program reports whether software that serves lists or campaigns has put its marks on
// the message. What the author's program has written is then no word about how it is sent.
func program(marks []Evidence) bool {
	return slices.ContainsFunc(marks, func(e Evidence) bool {
		return e.Family == ListSoftware || e.Family == CampaignSoftware || e.Mark == listSender
	})
}

// names lists marks for the log.
func names(marks []Evidence) string {
	var b strings.Builder
	for i, e := range marks {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.Mark)
	}
	s := b.String()
	return s[:min(len(s), maxEvidence)]
}

// muchOf counts a message that has marks of one family alone, and reports whether its
// sender has sent the same subject to more recipients within the window than a program
// that talks to one customer at a time. What one account sends is no evidence against
// another's mail: any may name any sender.
func (c *Classifier) muchOf(m *Message, h headers, recipients int) bool {
	if c.many == 0 {
		return false
	}
	key := clean(m.AuthUser) + " " + SenderKey(m.Sender) + " " + subjectKey(m, h)
	return c.volume.add(key, recipients, m.Arrived, c.window) > c.many
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
