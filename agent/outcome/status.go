package outcome

// status is an enhanced status code without its class digit (RFC 3463 section 2): whether
// to try again is the reply code's affair. The zero status is none, or X.0.0.
type status struct{ subject, detail int }

func statusOf(enhanced string) status {
	subject, detail, ok := split(enhanced)
	if !ok {
		return status{}
	}
	return status{subject, detail}
}

// among says whether the status is in one of the ranges: subject, detail from, to.
func (s status) among(ranges [][3]int) bool {
	for _, r := range ranges {
		if s.subject == r[0] && s.detail >= r[1] && s.detail <= r[2] {
			return true
		}
	}
	return false
}

// meaning is what a status says where the words say nothing. ClassNone: nothing.
func (s status) meaning(a *Attempt) Class {
	sure := a.Stage == Rcpt || a.Stage == Data // only then is a recipient spoken of
	switch s.subject {
	case 1:
		switch s.detail {
		case 1, 10:
			if sure {
				return ClassUserUnknown
			}
		case 2:
			if sure {
				return ClassHostUnknown
			}
		case 6:
			if sure {
				return ClassHasMoved
			}
		}
		return ClassPolicy
	case 2:
		if !sure {
			return ClassNone
		}
		switch s.detail {
		case 2:
			return ClassMailboxFull
		case 3:
			return ClassSizeLimit
		case 4:
			return ClassSystem // a list cannot be expanded
		}
		return ClassSuspended
	case 3:
		if s.detail == 4 {
			return ClassTooBig
		}
		return ClassSystem
	case 4:
		return ClassNetwork
	case 5:
		if s.detail == 3 {
			return ClassTooManyRecipients
		}
		return ClassProtocol
	case 6:
		return ClassContent
	case 7:
		switch {
		case s.detail == 4, s.detail == 5, s.detail == 10, s.detail == 30: // RFC 3463, 5248, 8689
			return ClassTLS
		case s.detail == 7: // RFC 3463: message integrity failure
			return ClassContent
		case s.detail == 13 && sure: // RFC 5248: account disabled
			return ClassSuspended
		case s.detail >= 500 && s.detail <= 699 && a.Code/100 == 4: // Microsoft: "server busy"
			return ClassRateLimited
		case a.Stage == Connect && a.Code/100 == 5:
			return ClassReputation
		}
		return ClassPolicy
	}
	return ClassNone
}

// ofRecipient says whether the status allows that a recipient's address is spoken of: its
// subject is addressing or the mailbox, or it says no more than that something failed.
func (s status) ofRecipient() bool {
	switch s.subject {
	case 0:
		return s.detail == 0
	case 1: // 1.7 and 1.8 are the sender's
		return s.detail != 5 && s.detail != 7 && s.detail != 8 && s.detail != 9
	case 2:
		return s.detail <= 1
	case 3:
		return s.detail == 0
	case 4: // Microsoft 365 for an address or a domain (310) that there is not; no route
		return s.detail == 0 || s.detail == 1 || s.detail == 4 || s.detail == 310
	case 5:
		return s.detail == 0 || s.detail == 1 || s.detail == 4
	case 7: // RFC 7293: the mailbox has another owner
		return s.detail == 17
	}
	return false
}

// meaningOfCode is the last resort.
func meaningOfCode(a *Attempt) Class {
	switch {
	case a.Code/100 == 4:
		return ClassSystem
	case a.Stage == Connect && a.Code > 504: // whoever refuses us before we said anything knows our address only
		return ClassReputation
	case a.Code == 551 && a.Stage == Rcpt:
		return ClassHasMoved
	case a.Code == 552 && a.Stage == Rcpt:
		return ClassMailboxFull
	case a.Code >= 500 && a.Code <= 504, a.Code == 555, a.Code/100 != 5:
		return ClassProtocol
	case a.Code == 530:
		return ClassTLS
	}
	return ClassUndefined
}

// split takes "5.7.26" apart (RFC 3463 section 2).
func split(enhanced string) (subject, detail int, ok bool) {
	var n [3]int
	part, digits := 0, 0
	for i := range len(enhanced) {
		c := enhanced[i]
		switch {
		case '0' <= c && c <= '9' && digits < 3 && (part > 0 || digits == 0):
			n[part] = 10*n[part] + int(c-'0')
			digits++
		case c == '.' && digits > 0 && part < 2:
			part, digits = part+1, 0
		default:
			return 0, 0, false
		}
	}
	if part != 2 || digits == 0 {
		return 0, 0, false
	}
	return n[1], n[2], true
}

// statusInText is the enhanced status that a text has in brackets or after a # where the
// reply has none at its beginning: "#5.1.0 Address rejected", "(#5.1.1 - chkuser)".
func statusInText(text string) string {
	for i := 0; i+6 <= len(text); i++ {
		if text[i] != '#' {
			continue
		}
		end := i + 1
		for end < len(text) && (text[end] == '.' || '0' <= text[end] && text[end] <= '9') {
			end++
		}
		if _, _, ok := split(text[i+1 : end]); ok {
			return text[i+1 : end]
		}
	}
	return ""
}

// vague says whether the status tells no more than a subject.
func (s status) vague() bool { return s.detail == 0 || s.subject == 7 && s.detail == 1 }

// IsStatus says whether a word is an enhanced status code, "5.1.1".
func IsStatus(s string) bool {
	_, _, ok := split(s)
	return ok
}
