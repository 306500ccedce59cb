package outcome

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A wait that a reply names counts from leastWait to mostWait.
const (
	leastWait = time.Minute
	mostWait  = time.Hour
)

var named = regexp.MustCompile(`(?i)\b(?:(\d\d):(\d\d):(\d\d)|(\d{1,5})\s*(s|secs?|seconds?|m|mins?|minutes?|h|hours?))\b`)

// namedWait is the time after which a reply that reads as greylisting asks to come again,
// "in 300 seconds", "00:04:37"; 0 if it names none.
func namedWait(text string) time.Duration {
	m := named.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n := func(s string) time.Duration { v, _ := strconv.Atoi(s); return time.Duration(v) } // of a few digits
	d := n(m[1])*time.Hour + n(m[2])*time.Minute + n(m[3])*time.Second
	if m[4] != "" {
		d = n(m[4]) * map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour}[strings.ToLower(m[5])[0]]
	}
	if d == 0 {
		return 0
	}
	return min(max(d, leastWait), mostWait)
}

// greylistWait is when greylisted mail comes again where the reply names no time. The
// usual wait is 300 s (postgrey); who comes earlier finds that some begin it anew.
const greylistWait = 5*time.Minute + 30*time.Second

// greylistTries is how many tries are made so; whom they do not help is deferred as
// others are, never for less.
const greylistTries = 4

// greylisted is the wait of greylisted mail. Who has configured retries within a minute
// gets them.
func (p Policy) greylisted(a *Attempt) time.Duration {
	if wait := p.wait(a.Tries); wait < leastWait {
		return wait
	}
	wait := namedWait(a.Text)
	if wait == 0 {
		wait = greylistWait
	}
	if a.Tries >= greylistTries {
		wait = max(wait, p.wait(a.Tries-greylistTries))
	}
	return wait
}
