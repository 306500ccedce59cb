package postconf

import (
	"regexp"
	"slices"
	"strings"
)

// master is the text of a master.cf. postconf(1) moves comments about when it
// edits this file, and its -P takes no blanks; so we edit it, by as little as
// can be, and only where the text is of a form that we know.
type master []string // physical lines, with their ends

func readMaster(text []byte) master { return strings.SplitAfter(string(text), "\n") }

func (m master) bytes() []byte { return []byte(strings.Join(m, "")) }

// entry returns the lines of a service, from its first to the last that
// continues it: i >= end if there is none.
func (m master) entry(name, kind string) (i, end int) {
	for i = range m {
		f := strings.Fields(m[i])
		if startsEntry(m[i]) && len(f) >= 8 && f[0] == name && f[1] == kind {
			for end = i + 1; end < len(m) && !startsEntry(m[end]); end++ {
			}
			return i, end
		}
	}
	return 0, 0
}

// has reports whether a service is there.
func (m master) has(name, kind string) bool {
	_, end := m.entry(name, kind)
	return end > 0
}

// remove is the text without a service.
func (m master) remove(name, kind string) string {
	i, end := m.entry(name, kind)
	return strings.Join(m[:i], "") + strings.Join(m[end:], "")
}

func startsEntry(line string) bool {
	return strings.TrimSpace(line) != "" && !strings.ContainsRune(" \t#", rune(line[0]))
}

// bare is "-o name=value", braced "-o { name = value }" at the end of a line.
const (
	bare   = `^(\s+-o\s*%NAME%=)(\S*)(\s*)$`
	braced = `^(\s+-o\s*\{\s*%NAME%\s*=\s*)(.*?)(\s*\}\s*)$`
)

// option finds the one line that sets a parameter for a service. It returns the
// parts before and behind the value too; line is -1 if there is none, or more
// than one, or the value goes on in another line.
func (m master) option(name, kind, parameter string) (line int, before, value, after string, spaces bool) {
	line = -1
	i, end := m.entry(name, kind)
	for ; i < end; i++ {
		if strings.HasPrefix(strings.TrimSpace(m[i]), "#") {
			continue
		}
		for form, expression := range []string{bare, braced} {
			re := regexp.MustCompile(strings.ReplaceAll(expression, "%NAME%", regexp.QuoteMeta(parameter)))
			x := re.FindStringSubmatch(m[i])
			if x == nil {
				continue
			}
			if line >= 0 {
				return -1, "", "", "", false
			}
			line, before, value, after, spaces = i, x[1], x[2], x[3], form == 1
		}
	}
	return line, before, value, after, spaces
}

// The lines around what we add at the end, and the one before an option of ours
// within a service. The first is that of set-ups that added a port, so that undoing
// finds either.
const (
	beginMark  = "# Millrace's hand-back port; \"millrace setup --undo\" takes it out again.\n"
	endMark    = "# End of what is Millrace's.\n"
	optionMark = "# Millrace sees no mail that comes back here; \"millrace setup --undo\" takes out the next line.\n"
)

// with adds services at the end.
func (m master) with(text string) master {
	all := strings.Join(m, "")
	if all != "" && !strings.HasSuffix(all, "\n") {
		all += "\n"
	}
	return readMaster([]byte(all + beginMark + text + endMark))
}

// spared gives a service the milters of a list, in the place of those of main.cf. It
// reports whether the service is written in a form that is known.
func (m master) spared(name, kind, milters string) (master, bool) {
	i, end := m.entry(name, kind)
	if end == 0 {
		return m, false
	}
	// Behind the first line of the service: the options of a service stand in any order.
	option := "  -o smtpd_milters=" + milters + "\n"
	if strings.ContainsAny(milters, " \t") {
		option = "  -o { smtpd_milters = " + milters + " }\n"
	}
	if !strings.HasSuffix(m[i], "\n") {
		m[i] += "\n"
	}
	return slices.Insert(slices.Clone(m), i+1, optionMark, option), true
}

// withoutServices takes out what with added.
func (m master) withoutServices() master {
	all := strings.Join(m, "")
	if i := strings.Index(all, beginMark); i >= 0 {
		if n := strings.Index(all[i:], endMark); n >= 0 {
			all = all[:i] + all[i+n+len(endMark):]
		}
	}
	return readMaster([]byte(all))
}

// without takes out what with and spared added.
func (m master) without() master {
	m = m.withoutServices()
	for {
		i := slices.Index(m, optionMark)
		if i < 0 || i+1 >= len(m) {
			return m
		}
		m = slices.Delete(m, i, i+2)
	}
}
