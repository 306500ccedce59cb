package inlet

import (
	"regexp"
	"strconv"
	"strings"
)

// The arguments of MAIL and RCPT that are understood here (RFC 1870, 3461, 6152, 6531), each
// whole. A command with another one is the host MTA's to answer.
var (
	mailArgument = regexp.MustCompile(`(?i)^(?:SIZE=[0-9]{1,18}|BODY=(?:7BIT|8BITMIME)|SMTPUTF8|RET=(?:FULL|HDRS)|ENVID=(?:[!-*,-<>-~]|\+[0-9A-F]{2}){1,100})$`)
	rcptArgument = regexp.MustCompile(`(?i)^(?:NOTIFY=(?:NEVER|(?:SUCCESS|FAILURE|DELAY)(?:,(?:SUCCESS|FAILURE|DELAY)){0,2})|ORCPT=[a-z0-9-]{1,20};(?:[!-*,-<>-~]|\+[0-9A-F]{2}){1,500})$`)
)

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
