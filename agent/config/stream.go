package config

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/windows"
)

// Stream is one [[stream]]: what holds for campaigns or lists. The first, in the order of
// the files, one of whose patterns fits a stream's name is that stream's. All that it fits
// are one as far as its limits go: they share its rate and its quotas, so that those of a
// list hold for next week's campaign too. Mail beyond a limit waits and holds nobody up.
type Stream struct {
	// Name names the table in listings and for its counts; required, and each name once.
	Name string `toml:"name"`
	// Streams are globs over the names of streams, as millrace streams lists them; case
	// does not matter. Default: name.
	Streams []string `toml:"streams"`
	// Pool is the [[pool]] that its mail leaves from. Default: that of the domain's queue.
	Pool string `toml:"pool"`
	// Priority is the share of each of its streams beside others that wait for the same
	// receiver, 1 to 100; millrace priority overrides it. Default: 1.
	Priority Share `toml:"priority"`
	// MaxMessageRate bounds the messages per time to all receivers together, as those of
	// queues: "20/s", "600/m"; "" is no limit. A message to several recipients of a domain
	// counts once. Default: "".
	MaxMessageRate Rate `toml:"max_message_rate"`
	// Shared makes max_message_rate that of all nodes of the fleet together; quotas are so in a
	// fleet whatever stands here. Default: false.
	Shared bool `toml:"shared"`
	// Quotas are how many recipients may accept mail in a rolling hour, "5000/h", and on a
	// day of the calendar, "50000/d"; of each kind one at most. Default: none.
	Quotas []Quota `toml:"quotas"`
	// ProviderQuotas are the same for each [[queue]] by itself; the domains of the general
	// queue have none. Default: none.
	ProviderQuotas []Quota `toml:"provider_quotas"`
	// Window is when mail is sent: "Mon-Fri 08:00-20:00 Europe/Berlin", "22:00-06:00" (over
	// midnight), "Mon-Fri 08:00-20:00; Sat 10:00-14:00". What is under way when it closes
	// ends. On days of 23 and 25 hours it goes by the clock on the wall. Default: always.
	Window string `toml:"window"`
	// Zone is the time zone of its days, and of a window that names none: "Europe/Berlin".
	// Default: the window's, else the host's.
	Zone string `toml:"zone"`
	// Expire takes the place of the queue's expire. Default: that.
	Expire time.Duration `toml:"expire"`
	// ExpireAlways makes the time outside of the window count for expire, too.
	// Default: false.
	ExpireAlways bool `toml:"expire_always"`

	Open     windows.Window `toml:"-"` // of Window
	Location *time.Location `toml:"-"` // of Zone

	File string `toml:"-"` // where the stream stands, for messages
	Line int    `toml:"-"`
}

// Quota is a number of recipients in a rolling hour, or on a day of the calendar; written
// "5000/h", "50000/d".
type Quota struct {
	N   int
	Day bool
}

// Share is the priority of a stream, 1 to MaxPriority; 0: none is given.
type Share int

// MaxPriority is the highest priority of a stream: so many times the share of one without.
const MaxPriority = 100

// StreamOf returns the [[stream]] of a stream; nil if there is none.
func (c *Config) StreamOf(name string) *Stream {
	for i := range c.Streams {
		if MatchesAny(c.Streams[i].Streams, name) {
			return &c.Streams[i]
		}
	}
	return nil
}

// ParseQuota reads "5000/h" or "50000/d".
func ParseQuota(s string) (Quota, error) {
	number, unit, _ := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 31)
	switch {
	case err != nil || unit != "h" && unit != "d":
		return Quota{}, fmt.Errorf("%q is not a quota; remedy: write it like \"5000/h\" or \"50000/d\"", s)
	case n == 0:
		return Quota{}, fmt.Errorf("%q lets no mail go, ever; remedy: write a number from 1 on, or stop the stream with millrace pause", s)
	}
	return Quota{N: int(n), Day: unit == "d"}, nil
}

func (l *loader) checkStreams() {
	names := map[string]Notice{}
	for i := range l.cfg.Streams {
		s, path := &l.cfg.Streams[i], fmt.Sprintf("stream[%d]", i)
		first, twice := names[s.Name]
		switch {
		case l.bad[path+".name"]:
		case s.Name == "":
			l.fail(path, remedy("a stream without a name", `give it one: name = "newsletters"`))
		case strings.ContainsAny(s.Name, " \t\r\n"):
			l.fail(path+".name", remedy(fmt.Sprintf("name: %q cannot name a stream", s.Name), "write it without blanks"))
		case twice:
			l.fail(path+".name", remedy(fmt.Sprintf("name: there is a stream %q already at %s:%d", s.Name, first.File, first.Line), "choose another name, or join the two"))
		default:
			names[s.Name] = l.place(path)
		}
		l.notEmpty(path+".streams", s.Streams, `write patterns of streams' names, like "news-*", or leave it out`)
		l.globs(path+".streams", s.Streams, plainGlob)
		if len(s.Streams) == 0 && !l.bad[path+".streams"] {
			s.Streams = []string{s.Name}
		}
		l.checkPoolName(s.Pool, path+".pool")
		l.checkQuotas(path+".quotas", s.Quotas)
		l.checkQuotas(path+".provider_quotas", s.ProviderQuotas)
		l.checkWindow(s, path)
		used := cmp.Or(s.Pool != "", s.Priority > 0, s.MaxMessageRate > 0, len(s.Quotas)+len(s.ProviderQuotas) > 0, s.Window != "", s.Expire > 0)
		if _, given := l.at[path+".window"]; !used && !given && len(l.errs) == 0 {
			l.fail(path, remedy(fmt.Sprintf("stream %q says nothing of its mail", s.Name), "add one of pool, priority, max_message_rate, quotas, provider_quotas, window, expire"))
		}
	}
}

func (l *loader) checkQuotas(path string, list []Quota) {
	var seen [2]bool
	for i, q := range list {
		kind, unit := 0, "h"
		if q.Day {
			kind, unit = 1, "d"
		}
		if seen[kind] {
			l.failElement(path, i, remedy(fmt.Sprintf("%s: a second one of \"/%s\"", path[strings.LastIndexByte(path, '.')+1:], unit), "keep the smaller of the two"))
		}
		seen[kind] = true
	}
}

// checkWindow reads the window and the zone, which need each other.
func (l *loader) checkWindow(s *Stream, path string) {
	var err error
	s.Location = time.Local
	if s.Zone != "" {
		if s.Location, err = windows.ParseZone(s.Zone); err != nil {
			l.fail(path+".zone", "zone: "+err.Error())
			return
		}
	}
	if s.Open, err = windows.Parse(s.Window, s.Location); err != nil {
		l.fail(path+".window", "window: "+err.Error())
		return
	}
	if zone := s.Open.Zone(); s.Zone == "" && zone != nil {
		s.Location = zone
	}
}
