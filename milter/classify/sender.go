package classify

import "strings"

// SenderKey is an envelope sender without what differs from one message of a
// campaign to the next, * in its place: what follows a plus sign, a recipient that is
// written into the address (VERP), before the list or after it, and tokens that no person
// chooses, of letters and digits mixed, of four digits or of twenty letters:
//
//	news-bounces+ann=b.example@lists.example     news-bounces+*@lists.example
//	news-return-7-ann=b.example@lists.example    news-*@lists.example
//	ann=b.example@bounce.example                 *@bounce.example
//	2.20290.44-t9bsgc0tYwDu.1.b@news.example     *.b@news.example
//
// It is printable, lower case, and at most 128 octets long.
func SenderKey(sender string) string {
	local, domain := sender, ""
	if at := strings.LastIndexByte(sender, '@'); at >= 0 {
		local, domain = sender[:at], sender[at:]
	}
	if tagged, ok := cutPrefixFold(local, "prvs="); ok { // BATV: prvs=TAG=local
		_, local, _ = strings.Cut(tagged, "=")
	}
	before, _, plus := strings.Cut(local, "+")
	key := withoutRecipient(before)
	if key != "*" {
		key = withoutTokens(key)
	}
	if plus {
		key += "+*"
	}
	return strings.ToLower(clean(key + domain))
}

// withoutRecipient cuts a recipient off that stands in a local part as user=domain. One
// in front takes the rest with it; SRS and other tags (srs0=, msprvs1=) stay.
func withoutRecipient(local string) string {
	name, rest, ok := strings.Cut(local, "=")
	if !ok {
		return local
	}
	if i := strings.IndexByte(name, '-'); i >= 0 {
		return local[:i+1] + "*"
	}
	if strings.HasSuffix(name, "0") || strings.HasSuffix(name, "1") || !strings.Contains(rest, ".") {
		return name + "=*"
	}
	return "*"
}

// withoutTokens writes * for tokens that no person chooses and, beside such, for numbers;
// neighbours become one.
func withoutTokens(s string) string {
	const separators = "-._="
	any := false
	for token := range strings.FieldsFuncSeq(s, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		any = any || madeUp(token)
	}
	if !any {
		return s
	}
	var b strings.Builder
	held := "" // separators since the last token
	star := false
	for s != "" {
		n := strings.IndexAny(s, separators)
		if n < 0 {
			n = len(s)
		}
		token := s[:n]
		switch fold := token != "" && (madeUp(token) || strings.Trim(token, "0123456789") == ""); {
		case fold && star: // with what separates it from the one before
		case fold:
			b.WriteString(held)
			b.WriteByte('*')
			star = true
			held = ""
		case token != "":
			b.WriteString(held)
			b.WriteString(token)
			star = false
			held = ""
		}
		if star && token != "" {
			held = ""
		}
		if s = s[n:]; s != "" {
			held += s[:1]
			s = s[1:]
		}
	}
	b.WriteString(held)
	return b.String()
}

// madeUp reports whether a token is one that a program has made.
func madeUp(token string) bool {
	digits, run, longest := 0, 0, 0
	for i := range len(token) {
		if c := token[i]; c >= '0' && c <= '9' {
			digits++
			run++
			longest = max(longest, run)
			continue
		}
		run = 0
	}
	return longest >= 4 || len(token) >= 20 || len(token) >= 8 && digits > 1 && digits < len(token)
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}
