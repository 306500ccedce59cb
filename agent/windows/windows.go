// Package windows tells when mail may be sent by the clock on a wall: "Mon-Fri
// 08:00-20:00 Europe/Berlin". It is pure, and owns the syntax of such windows.
//
// Parse reads one; the zero Window is always open. Open says whether it is open at a
// moment, Next when that changes, Within how long it was open between two moments. All
// three answer for any moment, however the clock was set, and hold no state.
//
// # Syntax
//
// A window is one or more parts, separated by semicolons, and a time zone for all of
// them at the end. A part is days and hours: "Mon-Fri 08:00-20:00", "Sat,Sun
// 10:00-14:00", "22:00-06:00" (every day). Hours from the later to the earlier time go
// over midnight, into the day after those that are named; "24:00" is the end of a day.
// Days are Mon, Tue, Wed, Thu, Fri, Sat, Sun in any case, ranges of them may go over the
// weekend (Sat-Mon). A zone is a name of the IANA time zone database, which is built in
// (time/tzdata), as hosts without it are usual; without a zone it is the one that Parse is
// given.
//
// # Days of 23 and 25 hours
//
// A window is open while a clock on the wall of its zone shows a time that is inside. So on
// the day when clocks go forward, the hour that is left out is missing from a window, and one
// that lies in it does not open that day; when they go back, the hour that comes twice is
// inside twice. Between two changes of the clock the offset from UTC is constant, and a
// window is a set of minutes of the week: that is all the arithmetic there is.
package windows

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones do not depend on what is installed on the host
)

// Window is when mail may be sent. The zero Window is always open.
type Window struct {
	text string
	zone *time.Location
	open []span // sorted, apart from each other, within one week; nil: always
}

// span is some minutes of the week, which begins on Sunday at midnight: from, up to and
// without to.
type span struct{ from, to int }

const (
	dayMinutes  = 24 * 60
	weekMinutes = 7 * dayMinutes
)

// Zero says whether the window is always open.
func (w Window) Zero() bool { return w.open == nil }

// String is the window as it was written.
func (w Window) String() string { return w.text }

// Zone is where the clock hangs; nil for a window that is always open.
func (w Window) Zone() *time.Location { return w.zone }

// days are the names of time.Weekday.
var days = map[string]int{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}

// Parse reads a window; "" is the one that is always open. zone holds where the text names
// none. An error says what to write instead.
func Parse(s string, zone *time.Location) (Window, error) {
	if s == "" {
		return Window{}, nil
	}
	w := Window{text: s, zone: zone}
	parts := strings.Split(s, ";")
	for i, part := range parts {
		fields := strings.Fields(part)
		if n := len(fields) - 1; i == len(parts)-1 && n > 0 && !isHours(fields[n]) {
			zone, err := ParseZone(fields[n])
			if err != nil {
				return Window{}, err
			}
			w.zone, fields = zone, fields[:n]
		}
		if err := w.part(fields); err != nil {
			return Window{}, fmt.Errorf("%q is not a window: %w; remedy: write it like \"Mon-Fri 08:00-20:00 Europe/Berlin\"", s, err)
		}
	}
	w.merge()
	return w, nil
}

// ParseZone reads the name of a time zone.
func ParseZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		return nil, fmt.Errorf("%q is not a time zone; remedy: write it like \"Europe/Berlin\" or \"UTC\"", name)
	}
	return zone, nil
}

func isHours(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }

// part adds days and hours.
func (w *Window) part(fields []string) error {
	var on [7]bool
	switch len(fields) {
	case 1:
		on = [7]bool{true, true, true, true, true, true, true}
	case 2:
		if err := parseDays(fields[0], &on); err != nil {
			return err
		}
		fields = fields[1:]
	default:
		return errors.New("days and hours are expected")
	}
	a, b, _ := strings.Cut(fields[0], "-")
	from, err := parseTime(a)
	if err != nil {
		return err
	}
	to, err := parseTime(b)
	if err != nil {
		return err
	}
	switch {
	case from == to || from == dayMinutes:
		return fmt.Errorf("%s never opens (all day is 00:00-24:00)", fields[0])
	case to < from:
		to += dayMinutes
	}
	for day, is := range on {
		if is {
			begin := day * dayMinutes
			w.open = append(w.open, span{begin + from, min(begin+to, weekMinutes)})
			if over := begin + to - weekMinutes; over > 0 { // from Saturday into Sunday
				w.open = append(w.open, span{0, over})
			}
		}
	}
	return nil
}

func parseDays(s string, on *[7]bool) error {
	for item := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(item, "-")
		from, ok := days[strings.ToLower(first)]
		to := from
		if isRange && ok {
			to, ok = days[strings.ToLower(last)]
		}
		if !ok {
			return fmt.Errorf("%q names no days", item)
		}
		for day := from; ; day = (day + 1) % 7 {
			on[day] = true
			if day == to {
				break
			}
		}
	}
	return nil
}

// parseTime reads "08:00", up to "24:00", as minutes of the day.
func parseTime(s string) (int, error) {
	if s == "24:00" {
		return dayMinutes, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of the day", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// merge sorts the spans and joins those that meet.
func (w *Window) merge() {
	slices.SortFunc(w.open, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	list := w.open[:1]
	for _, s := range w.open[1:] {
		if last := &list[len(list)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			list = append(list, s)
		}
	}
	w.open = list
	if list[0] == (span{0, weekMinutes}) {
		w.open = nil // always
	}
}

// Open says whether the window is open at a moment.
func (w Window) Open(t time.Time) bool {
	if w.Zero() {
		return true
	}
	open, _ := w.at(w.second(t))
	return open
}

// second is the second of the week that the clock shows.
func (w Window) second(t time.Time) int {
	t = t.In(w.zone)
	return (int(t.Weekday())*dayMinutes+t.Hour()*60+t.Minute())*60 + t.Second()
}

// at says whether the window is open at a second of the week, and in how many seconds a
// clock that nobody sets shows the next change.
func (w Window) at(second int) (open bool, change int) {
	for _, s := range w.open {
		if second < s.from*60 {
			return false, s.from*60 - second
		}
		if second < s.to*60 {
			to := s.to * 60
			if s.to == weekMinutes && w.open[0].from == 0 { // it goes on on Sunday
				to += w.open[0].to * 60
			}
			return true, to - second
		}
	}
	return false, (weekMinutes+w.open[0].from)*60 - second
}

// Next is the first moment after t when the window opens, if it is closed at t, or closes, if
// it is open. It is the zero time for a window that is always open.
func (w Window) Next(t time.Time) time.Time {
	if w.Zero() {
		return time.Time{}
	}
	is := w.Open(t)
	for {
		open, change := w.at(w.second(t))
		if open != is {
			return t
		}
		next := t.Add(time.Duration(change)*time.Second - time.Duration(t.Nanosecond()))
		if _, end := t.In(w.zone).ZoneBounds(); !end.IsZero() && !end.After(next) {
			next = end // the clock is set there: it shows something else from then on
		}
		t = next
	}
}

// Within is how long the window was open from one moment to a later one; 0 if that is not
// later. Its cost grows with the changes in between: two a day, in most windows.
func (w Window) Within(from, to time.Time) time.Duration {
	if w.Zero() {
		return max(0, to.Sub(from))
	}
	var total time.Duration
	for open := w.Open(from); from.Before(to); open = !open {
		next := w.Next(from)
		if next.After(to) {
			next = to
		}
		if open {
			total += next.Sub(from)
		}
		from = next
	}
	return total
}
