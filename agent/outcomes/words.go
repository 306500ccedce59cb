package outcomes

import "strings"

// split cuts a reply into what others like it have too, and the words between that are
// this one's: queue ids, times, addresses. A receiver says "250 2.0.0 Ok: queued as
// 4fKz1T0Qx9z" a million times; only the id is kept with each. before+words+after is the reply.
func split(reply, recipient string) (before, words, after string) {
	local, _, _ := strings.Cut(recipient, "@")
	first, last := -1, -1
	for at := 0; at < len(reply); {
		end := strings.IndexByte(reply[at:], ' ')
		if end < 0 {
			end = len(reply)
		} else {
			end += at
		}
		if own(reply[at:end], local) {
			if first < 0 {
				first = at
			}
			last = end
		}
		at = end + 1
	}
	if first < 0 {
		return reply, "", ""
	}
	return reply[:first], reply[first:last], reply[last:]
}

// own reports whether a word is likely to be of one reply only: with a digit, but for reply
// codes and enhanced status codes, an address, or what repeats the recipient's local part.
func own(word, local string) bool {
	digit := false
	for i := 0; i < len(word); i++ {
		switch c := word[i]; {
		case c >= '0' && c <= '9':
			digit = true
		case c == '@':
			return true
		}
	}
	if digit && !isCode(word) {
		return true
	}
	// Shorter ones are found by chance in other words.
	return len(local) >= 3 && len(word) >= len(local) && len(word) <= len(local)+4 && containsFold(word, local)
}

// isCode reports whether a word is a reply code, "250", or an enhanced status code, "2.0.0",
// perhaps the two of them, "250-2.0.0".
func isCode(word string) bool {
	if len(word) > len("550-5.7.509") || word[0] != '2' && word[0] != '4' && word[0] != '5' {
		return false
	}
	dots := 0
	for i := 0; i < len(word); i++ {
		switch c := word[i]; {
		case c == '.':
			dots++
		case c != '-' && (c < '0' || c > '9'):
			return false
		}
	}
	return dots == 2 || dots == 0 && len(word) <= 4
}

func containsFold(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if strings.EqualFold(s[i:i+len(part)], part) {
			return true
		}
	}
	return false
}

// hashOf is the 32-bit FNV-1a hash of a text in lower case: a key to find it, not a secret.
func hashOf(s string) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// recipientKey is the key of a recipient, who stands in a row by address or by hash.
func recipientKey(address string, hash int64) (uint32, bool) {
	switch {
	case address != "":
		return hashOf(address), true
	case hash != 0:
		return uint32(hash), true
	}
	return 0, false
}
