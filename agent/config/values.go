package config

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads a length of time: whole numbers each with a unit of w, d,
// h, m or s, largest first or not: "5d", "1w", "4h30m", "90s".
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a length of time; remedy: write it like \"90s\", \"4h30m\", \"5d\" or \"1w\"", s)
	var total time.Duration
	rest := s
	for {
		i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if i < 1 {
			return 0, bad
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		if err != nil {
			return 0, bad
		}
		var unit time.Duration
		switch rest[i] {
		case 'w':
			unit = 7 * 24 * time.Hour
		case 'd':
			unit = 24 * time.Hour
		case 'h':
			unit = time.Hour
		case 'm':
			unit = time.Minute
		case 's':
			unit = time.Second
		default:
			return 0, bad
		}
		if n > int64((math.MaxInt64-total)/unit) {
			return 0, bad
		}
		total += time.Duration(n) * unit
		if rest = rest[i+1:]; rest == "" {
			return total, nil
		}
	}
}

// ParseSize reads a number of bytes: plain, or with a unit. k, M, G, T (and kB,
// MB ...) are powers of 1000; Ki, Mi, Gi, Ti (and KiB, MiB ...) are powers of
// 1024. Case does not matter.
func ParseSize(s string) (Size, error) {
	bad := fmt.Errorf("%q is not a size; remedy: write it like \"1GiB\", \"500MB\" or \"10k\"", s)
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, bad
	}
	unit := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s[i:])), "b")
	base := int64(1000)
	if strings.HasSuffix(unit, "i") {
		base, unit = 1024, strings.TrimSuffix(unit, "i")
		if unit == "" {
			return 0, bad
		}
	}
	power := 0
	if unit != "" {
		if power = strings.Index("kmgt", unit) + 1; power == 0 || len(unit) != 1 {
			return 0, bad
		}
	}
	for ; power > 0; power-- {
		if n > math.MaxInt64/base {
			return 0, bad
		}
		n *= base
	}
	return Size(n), nil
}

// ParseRate reads messages per second, minute or hour: "100/s", "600/m",
// "5000/h". The empty string is no limit.
func ParseRate(s string) (Rate, error) {
	if s == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(s, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || per == 0 {
		return 0, fmt.Errorf("%q is not a rate; remedy: write it like \"100/s\", \"600/m\" or \"5000/h\", or \"\" for no limit", s)
	}
	return Rate(float64(n) / per), nil
}

// Per is a rate as so many messages in a unit that rates are written with, "second", "minute" or
// "hour": the first in which there is one at least, else the last.
func (r Rate) Per() (n float64, unit string) {
	switch n := float64(r); {
	case n >= 1:
		return n, "second"
	case n*60 >= 1:
		return n * 60, "minute"
	default:
		return n * 3600, "hour"
	}
}

// ParseListen reads a listening address in the notation of milters and returns
// what net.Listen wants: "unix:/path" is ("unix", "/path"),
// "inet:8890@127.0.0.1" is ("tcp4", "127.0.0.1:8890") and "inet6:8890@[::1]" is
// ("tcp6", "[::1]:8890").
func ParseListen(s string) (network, address string, err error) {
	kind, rest, _ := strings.Cut(s, ":")
	switch kind {
	case "unix":
		if !filepath.IsAbs(rest) {
			return "", "", fmt.Errorf("%q has no absolute path; remedy: write it like \"unix:/run/millrace/x.sock\"", s)
		}
		if len(rest) > 107 { // sockaddr_un, unix(7)
			return "", "", fmt.Errorf("the socket path in %q is longer than the system's 107 bytes; remedy: choose a shorter path", s)
		}
		return "unix", rest, nil
	case "inet", "inet6":
		network = "tcp4"
		if kind == "inet6" {
			network = "tcp6"
		}
		port, host, ok := strings.Cut(rest, "@")
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if a, err := netip.ParseAddr(host); err == nil {
			ok = ok && a.Is4() == (network == "tcp4")
		} else {
			ok = ok && isHostname(host)
		}
		if ok && isPort(port) {
			return network, net.JoinHostPort(host, port), nil
		}
	}
	return "", "", fmt.Errorf("%q is not a listening address; remedy: write it like \"unix:/path\", \"inet:8890@127.0.0.1\" or \"inet6:8890@[::1]\"", s)
}

// RelaySocket is the path of a relay that is a Unix socket, "unix:/path"; of one that is
// "host:port" it is "".
func RelaySocket(relay string) string {
	if network, path, err := ParseListen(relay); err == nil && network == "unix" {
		return path
	}
	return ""
}

// rejection is a reply with a permanent status code (RFC 3463) and a text of printable
// ASCII, that can stand in a report.
var rejection = regexp.MustCompile(`^5[0-9][0-9] 5\.[0-9]{1,3}\.[0-9]{1,3} [!-~][ -~]{0,199}$`)

// parseRoute reads "mx", "handback", "relay:host:port" or "reject: 550 5.7.1 text".
func parseRoute(s string) (Route, error) {
	if s == string(RouteMX) || s == string(RouteHandback) {
		return Route{Kind: RouteKind(s)}, nil
	}
	if reply, ok := strings.CutPrefix(s, "reject:"); ok {
		reply = strings.TrimSpace(reply)
		if !rejection.MatchString(reply) {
			return Route{}, fmt.Errorf("%q names no reply that refuses for good; remedy: write it like \"reject: 550 5.7.1 we send no mail there\"", s)
		}
		return Route{Kind: RouteReject, Reject: reply}, nil
	}
	relay, ok := strings.CutPrefix(s, "relay:")
	if !ok || !isHostPort(relay) {
		return Route{}, fmt.Errorf("%q is not a route; remedy: write \"mx\", \"handback\", \"relay:host:port\" or \"reject: 550 5.7.1 text\"", s)
	}
	return Route{Kind: RouteRelay, Relay: relay}, nil
}

// parsePrefix reads a network or, as a network of its own, an address.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a network; remedy: write it like \"192.0.2.0/24\" or \"2001:db8::/32\"", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its prefix; remedy: write %q", s, p.Masked())
	}
	return p, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address of this host; remedy: write it like \"192.0.2.1\" or \"2001:db8::1\"", s)
	}
	return a.Unmap(), nil
}

// parseHeaderMatch reads "Name: glob" or "Name: /regexp/".
func parseHeaderMatch(s string) (HeaderMatch, error) {
	name, pattern, ok := strings.Cut(s, ":")
	pattern = strings.TrimSpace(pattern)
	switch {
	case !ok || !isFieldName(name):
		return HeaderMatch{}, fmt.Errorf("%q is not a header condition; remedy: write it like \"X-Campaign: *\" or \"Precedence: /^(bulk|list)$/\"", s)
	case pattern == "":
		return HeaderMatch{}, fmt.Errorf("%q has no pattern; remedy: write \"%s: *\" for any value, or use header_exists", s, name)
	case pattern[0] != '/':
		return HeaderMatch{name, pattern}, nil
	case len(pattern) < 3 || pattern[len(pattern)-1] != '/':
		return HeaderMatch{}, fmt.Errorf("the regular expression in %q does not end with a slash; remedy: write it like \"%s: /^x/\"; \"(?i)\" inside it folds case", s, name)
	}
	if _, err := regexp.Compile(pattern[1 : len(pattern)-1]); err != nil {
		return HeaderMatch{}, fmt.Errorf("the regular expression in %q cannot be used: %w; remedy: see https://pkg.go.dev/regexp/syntax for what can be written", s, err)
	}
	return HeaderMatch{name, pattern}, nil
}

// isFieldName reports whether s can name a header field (RFC 5322 2.2).
func isFieldName(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return s != ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// isHostPort accepts "host:port" with a name, an IPv4 address or a bracketed
// IPv6 address as host.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port) {
		return false
	}
	_, err = netip.ParseAddr(host)
	return err == nil || isHostname(host)
}

// isAddrPort is isHostPort for places where a name cannot be looked up.
func isAddrPort(s string) bool {
	ap, err := netip.ParseAddrPort(s)
	return err == nil && ap.Port() > 0
}
