package web

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/millrace/millrace/agent/maillog"
)

// maxShown bounds, in characters, what strangers can put on a page in one go.
const maxShown = 300

// shown makes a stranger's text fit to be shown: control characters, and those
// that change the direction of what follows, become visible, and what is too
// long is cut.
func shown(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n++; n > maxShown {
			b.WriteString("…")
			break
		}
		switch {
		case r == ' ' || unicode.IsPrint(r) && r != unicode.ReplacementChar:
			b.WriteRune(r)
		case r == unicode.ReplacementChar:
			b.WriteString("?")
		default: // controls, line ends, bidirectional controls, unassigned
			fmt.Fprintf(&b, "<%04X>", r)
		}
	}
	return b.String()
}

// text is what is shown of a stranger's text: without local parts, unless the
// reader may see addresses.
func (v *view) text(s string) string {
	if !v.trusted {
		s = maillog.WithoutLocalParts(s)
	}
	return shown(s)
}

// number writes 1234567 as 1,234,567.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// amount writes a measured number with three digits at most.
func amount(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 99.95:
		return number(int(math.Round(x)))
	case x >= 9.995:
		return trim(strconv.FormatFloat(x, 'f', 1, 64))
	default:
		return trim(strconv.FormatFloat(x, 'f', 2, 64))
	}
}

func trim(s string) string { return strings.TrimRight(strings.TrimRight(s, "0"), ".") }

// plural writes "1 session", "2 sessions".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

// about writes a duration as one would say it.
func about(d time.Duration) string {
	switch {
	case d < 90*time.Second:
		return plural(max(1, int(math.Round(d.Seconds()))), "second")
	case d < 90*time.Minute:
		return plural(int(math.Round(d.Minutes())), "minute")
	case d < 48*time.Hour:
		return plural(int(math.Round(d.Hours())), "hour")
	default:
		return plural(int(math.Round(d.Hours()/24)), "day")
	}
}

// left is how long n more take at a rate; false if that cannot be said.
func left(n int, rate float64) (time.Duration, bool) {
	if rate <= 0 {
		return 0, false
	}
	s := float64(n) / rate
	if s > 365*24*3600 {
		return 0, false
	}
	return time.Duration(s * float64(time.Second)), true
}

// clock writes a time of today without its date.
func clock(t, now time.Time) string {
	t = t.In(now.Location())
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// seconds writes a time that something took.
func seconds(s float64) string {
	if s < 1 {
		return amount(s*1000) + " ms"
	}
	return amount(s) + " s"
}
