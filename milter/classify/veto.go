package classify

import (
	"strings"

	"github.com/millrace/millrace/agent/address"
)

// mailArgs and rcptArgs are the ESMTP arguments that the agent honours or may
// leave out without harm. All others, XVERP and REQUIRETLS among them, change
// what happens to the mail and are left to the MTA that announced them.
var (
	mailArgs = map[string]bool{
		"SIZE": true, "BODY": true, "SMTPUTF8": true, // RFC 1870, 6152, 6531
		"RET": true, "ENVID": true, // RFC 3461
		"AUTH": true, // RFC 4954
	}
	rcptArgs = map[string]bool{"NOTIFY": true, "ORCPT": true} // RFC 3461
)

// maxHops is how many Received fields diverted mail may have, those of the host left
// out. A host counts them and refuses what has too many, 50 with Postfix
// (hopcount_limit), 25 with Sendmail (MaxHopCount). Ours and one more come on top when
// mail goes back to it: what it takes only just it would not take again.
const maxHops = 20

// veto says why a message must stay with the host whatever rules say, or "".
func (c *Classifier) veto(m *Message, h headers) string {
	if m.Looped {
		return "has been here before"
	}
	if m.Sender == "" {
		return "null sender"
	}
	if domainOf(m.Sender) == "" {
		return "sender without a domain"
	}
	if !address.Plain(m.Sender) { // the host mends it, or lets the receivers judge
		return "sender is not a plain address"
	}
	for _, a := range m.Args {
		if why := unknownArg(a, mailArgs); why != "" {
			return why
		}
	}
	for i := range m.Recipients {
		for _, a := range m.Recipients[i].Args {
			if why := unknownArg(a, rcptArgs); why != "" {
				return why
			}
		}
	}
	if len(h["received"]) > maxHops {
		return "too many hops"
	}
	for _, v := range h["auto-submitted"] { // RFC 3834
		// auto-generated is no reply: a rule may divert it, built-in evidence does not.
		if v = autoSubmitted(v); v != "no" && v != "auto-generated" {
			return "Auto-Submitted: " + printable(v)
		}
	}
	for _, v := range h["content-type"] {
		if strings.HasPrefix(strings.ToLower(v), "multipart/report") {
			return "multipart/report"
		}
	}
	for i := range c.vetoHeaders {
		if v := &c.vetoHeaders[i]; v.holds(h) {
			return "veto_headers: " + printable(v.name)
		}
	}
	return ""
}

// autoSubmitted is the keyword of an Auto-Submitted field, lower case.
func autoSubmitted(v string) string {
	v, _, _ = strings.Cut(v, ";")
	v, _, _ = strings.Cut(v, "(") // a comment
	return strings.ToLower(strings.TrimSpace(v))
}

func unknownArg(arg string, known map[string]bool) string {
	name, value, _ := strings.Cut(arg, "=")
	name = strings.ToUpper(name)
	if !known[name] {
		return "ESMTP argument " + printable(name)
	}
	if name == "BODY" && !strings.EqualFold(value, "7BIT") && !strings.EqualFold(value, "8BITMIME") {
		return "ESMTP argument BODY=" + printable(value)
	}
	return ""
}

// printable makes a hostile word fit for a log's reason.
func printable(s string) string {
	b := []byte(s[:min(len(s), 40)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}
