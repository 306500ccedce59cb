package inlet

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The arguments of MAIL and RCPT that are understood here (RFC 1870, 3461, 6152, 6531), each
// whole. A command with another one is the host MTA's to answer.
var (
	mailArgument = regexp.MustCompile(`(?i)^(?:SIZE=[0-9]{1,18}|BODY=(?:7BIT|8BITMIME)|SMTPUTF8|RET=(?:FULL|HDRS)|ENVID=(?:[!-*,-<>-~]|\+[0-9A-F]{2}){1,100})$`)
	rcptArgument = regexp.MustCompile(`(?i)^(?:NOTIFY=(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})|ORCPT=[a-z0-9-]{1,20};(?:[!-*,-<>-~]|\+[0-9A-F]{2}){1,500})$`)
)

// extension is the one that an argument of MAIL or RCPT needs.
var extension = map[string]string{
	"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "RET": "DSN", "ENVID": "DSN", "NOTIFY": "DSN", "ORCPT": "DSN",
}

// fit is a MAIL or RCPT command as the host MTA understands it: without those arguments that are
// announced here and not there. It would refuse them, and with them mail that it takes.
//
// Nothing else is lost by it: content of 8 bits goes there as it is, which all MTAs of hosts
// take, and a notice of success is nobody's to send where DSN ends (RFC 3461 section 5.2.2 asks
// it of an MTA that has taken the mail). SMTPUTF8 is left out of mail alone that does not
// need it (session.needsUTF8).
func (h *host) fit(line string) string {
	words := strings.Split(line, " ")
	first := len(words)
	for ; first > 1; first-- { // from the end: a quoted local part can look like anything
		if w := words[first-1]; w != "" && !mailArgument.MatchString(w) && !rcptArgument.MatchString(w) {
			break
		}
	}
	return strings.Join(append(words[:first], slices.DeleteFunc(words[first:], func(w string) bool {
		name, _, _ := strings.Cut(strings.ToUpper(w), "=")
		return w != "" && !h.offers[extension[name]]
	})...), " ")
}

// ascii reports whether text has no octet above 127.
func ascii[T string | []byte](text T) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// path takes the address and the arguments off a MAIL or RCPT command. It reports whether the
// command is understood: its path in angle brackets, without quotes or a route, each argument
// a known one and there once.
func path(line, after string, argument *regexp.Regexp) (address string, args []string, ok bool) {
	_, s, _ := strings.Cut(line, " ")
	if s = strings.TrimLeft(s, " "); len(s) < len(after) || !strings.EqualFold(s[:len(after)], after) {
		return "", nil, false
	}
	s, ok = strings.CutPrefix(strings.TrimLeft(s[len(after):], " "), "<")
	address, s, closed := strings.Cut(s, ">")
	if !ok || !closed || s != "" && s[0] != ' ' {
		return "", nil, false
	}
	args = strings.Fields(s)
	seen := map[string]bool{}
	for _, a := range args {
		name, _, _ := strings.Cut(strings.ToUpper(a), "=")
		if seen[name] || !argument.MatchString(a) {
			return address, args, false
		}
		seen[name] = true
	}
	return address, args, true
}

// declared is the size that the client gave with MAIL (RFC 1870), or 0.
func declared(args []string) int64 {
	for _, a := range args {
		if name, value, _ := strings.Cut(a, "="); strings.EqualFold(name, "SIZE") {
			n, _ := strconv.ParseInt(value, 10, 64) // of 18 digits at most
			return n
		}
	}
	return 0
}
