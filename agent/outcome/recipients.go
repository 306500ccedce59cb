package outcome

import "strings"

// TooManyRecipients says whether a reply to RCPT or DATA tells that the message has more
// recipients than the server takes in one transaction: X.5.3 (RFC 3463), or a 452 or 552
// in such words (RFC 5321 4.5.3.1.10 has 552 read as 452). A limit on a time, a client, a
// connection or a quota is another matter.
func TooManyRecipients(code int, enhanced, text string) bool {
	text = strings.ToLower(text)
	_, detail, ok := split(enhanced)
	byStatus := ok && strings.HasSuffix(enhanced, ".5.3") && detail == 3 || strings.Contains(text, "#5.5.3") || strings.Contains(text, "#4.5.3")
	byWords := (code == 452 || code == 552) && strings.Contains(text, "recipients") && containsAny(text, "too many", "maximum", "limit", "exceed")
	return (byStatus || byWords) && code/100 >= 4 && !containsAny(text,
		"hour", "minute", "per second", " day", "daily", "week", "client", "your ip", "your host", "address you", "quota", "rate", "session", "connection")
}

func containsAny(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}
