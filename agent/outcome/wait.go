package outcome

import (
	"cmp"
	"time"
)

// A wait that a reply names counts from leastWait to mostWait.
const (
	leastWait = time.Minute
	mostWait  = time.Hour
)

// units are the words of times, in the languages that replies are met in.
var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"sekunden": time.Second, "secondes": time.Second, "segundos": time.Second, "secondi": time.Second, "sekund": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"minuten": time.Minute, "minutos": time.Minute, "minuti": time.Minute, "minut": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour, "stunde": time.Hour, "stunden": time.Hour, "heure": time.Hour, "heures": time.Hour,
	"hora": time.Hour, "horas": time.Hour, "ora": time.Hour, "ore": time.Hour,
}

// before are the words that stand before the time to wait. A limit, "50 in 60 seconds",
// has a number before them.
var before = map[string]bool{
	"in": true, "after": true, "for": true, "wait": true, "least": true, "another": true, "next": true, "within": true, "about": true,
	"nach": true, "fuer": true, "für": true, "dans": true, "apres": true, "après": true, "en": true, "tras": true, "em": true, "tra": true, "dopo": true, "za": true,
}

// wait is the time that the words ask to wait: "in 300 seconds", "for 5 minutes",
// "00:04:37"; 0 if there is none. Greylisting needs no word before the time.
func (r *reader) wait(greylisted bool) time.Duration {
	for i := range r.n {
		n, ok := r.number(i)
		if !ok || !greylisted && !r.asks(i) {
			continue
		}
		if d := r.clock(i); d > 0 {
			return min(max(d, leastWait), mostWait)
		}
		unit := time.Duration(0)
		if i+1 < r.n {
			unit = units[string(r.word(i+1))]
		}
		if unit > 0 && n > 0 && n < 100_000 {
			return min(max(time.Duration(n)*unit, leastWait), mostWait)
		}
	}
	return 0
}

// asks says whether the word before number i makes it a time to wait.
func (r *reader) asks(i int) bool {
	if i == 0 || !before[string(r.word(i-1))] {
		return false
	}
	if i == 1 {
		return true
	}
	_, limit := r.number(i - 2)
	return !limit
}

// clock reads hours, minutes and seconds from word i on, in two digits each.
func (r *reader) clock(i int) time.Duration {
	if i+2 >= r.n {
		return 0
	}
	var d time.Duration
	for k := range 3 {
		n, ok := r.number(i + k)
		if !ok || len(r.word(i+k)) != 2 || n > 59 {
			return 0
		}
		d = 60*d + time.Duration(n)*time.Second
	}
	return d
}

// number is word i, if it is one: of at most six digits.
func (r *reader) number(i int) (int, bool) {
	w := r.word(i)
	if len(w) > 6 || r.words[i].inName {
		return 0, false
	}
	n := 0
	for _, c := range w {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// greylistWait is when greylisted mail comes again where the reply names no time. The
// usual wait is 300 s (postgrey); who comes earlier finds that some begin it anew.
const greylistWait = 5*time.Minute + 30*time.Second

// greylistTries is how many tries are made so; whom they do not help is deferred as
// others are, never for less.
const greylistTries = 4

// greylisted is the wait of greylisted mail, where the reply names a time or none. Who has
// configured retries within a minute gets them.
func (p Policy) greylisted(a *Attempt, named time.Duration) time.Duration {
	if wait := p.wait(a.Tries); wait < leastWait {
		return wait
	}
	wait := cmp.Or(named, greylistWait)
	if a.Tries >= greylistTries {
		wait = max(wait, p.wait(a.Tries-greylistTries))
	}
	return wait
}
