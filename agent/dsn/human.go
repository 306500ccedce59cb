package dsn

import "strings"

// explanation writes the part for people.
func explanation(r Report, action Action) string {
	var b strings.Builder
	line := func(s string) { b.WriteString(wrap(s, 0, "") + "\r\n") }
	line("This is the mail system at host " + hostName(r.Hostname) + " (Millrace).")
	line("")
	switch action {
	case Failed:
		line("I'm sorry to inform you that your message could not be delivered to one or more recipients. It is attached below, or its header is.")
		line("")
		line("For further assistance, please send mail to postmaster, and include this report; you can delete your own text from the attached message.")
	case Delayed:
		line("This is only a warning; you need not send your message again.")
		line("")
		line("Your message could not yet be delivered to one or more recipients. It will be tried again until it is delivered or too old.")
	default:
		line("Your message was delivered to the destinations listed below. You get this report because it was asked for. Other mail systems may still send you reports about it.")
	}
	line("")
	b.WriteString(strings.Repeat(" ", 27) + "The mail system\r\n")
	for _, rcpt := range r.Recipients {
		line("")
		b.WriteString(wrap(shownAddress(rcpt.Recipient)+": "+fate(rcpt), 0, "    ") + "\r\n")
	}
	return b.String()
}

// fate says in one line what happened to a recipient, and by whose word.
func fate(r Recipient) string {
	said := oneLine(r.Text, true)
	if text := oneLine(r.Diagnostic, true); said == "" && text != "" {
		said = text
		if r.RemoteHost != "" {
			said = "host " + hostName(r.RemoteHost) + " said: " + text
		}
	}
	s := ""
	switch r.Action {
	case Delivered:
		s = "delivered"
	case Relayed:
		s = "relayed to a mail system that sends no delivery reports"
	case Expanded:
		s = "delivered to an alias or list"
	case Delayed:
		s = "delayed"
	default:
		if said == "" {
			s = "not delivered"
		}
	}
	switch {
	case s == "":
		s = said
	case said != "":
		s += ": " + said
	case r.RemoteHost != "":
		s += " (host " + hostName(r.RemoteHost) + ")"
	}
	if r.Action == Delayed && !r.WillRetryUntil.IsZero() {
		s += " (will be tried until " + r.WillRetryUntil.Format("Mon, 2 Jan 2006 15:04:05 -0700") + ")"
	}
	return s
}
