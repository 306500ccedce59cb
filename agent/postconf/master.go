package postconf

import (
	"regexp"
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

// The lines around what we add. They are those of set-ups that added a port, so that
// undoing finds either.
const (
	beginMark = "# Millrace's hand-back port; \"millrace setup --undo\" takes it out again.\n"
	endMark   = "# End of what is Millrace's.\n"
)

// with adds services at the end.
func (m master) with(text string) master {
	all := strings.Join(m, "")
	if all != "" && !strings.HasSuffix(all, "\n") {
		all += "\n"
	}
	return readMaster([]byte(all + beginMark + text + endMark))
}

// without takes out what with added.
func (m master) without() master {
	all := strings.Join(m, "")
	i := strings.Index(all, beginMark)
	if i < 0 {
		return m
	}
	n := strings.Index(all[i:], endMark)
	if n < 0 {
		return m
	}
	return readMaster([]byte(all[:i] + all[i+n+len(endMark):]))
}
