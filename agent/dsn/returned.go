package dsn

import (
	"bytes"
	"strings"
)

const maxLine = 998

// returned prepares what is given back of the original, and says whether that
// is all of it. What is too large is reduced to its header, and a header that is
// too large is cut at a line end.
func returned(content []byte, full bool) (text string, whole bool) {
	if full && len(content) <= MaxContent {
		return tidy(content), true
	}
	header := content
	if bytes.HasPrefix(content, []byte("\r\n")) {
		header = nil
	} else if i := bytes.Index(content, []byte("\r\n\r\n")); i >= 0 {
		header = content[:i+2]
	}
	if len(header) > MaxContent {
		header = header[:MaxContent]
		header = header[:bytes.LastIndexByte(header, '\n')+1]
	}
	return tidy(header), false
}

// tidy returns content as it is if it can be sent: CRLF line ends, no NUL, no
// line over 998 octets. The spool holds nothing else, but a damaged header must
// not stop its notification; so line ends are mended, NULs marked and long lines
// folded.
func tidy(content []byte) string {
	if clean(content) {
		return string(content)
	}
	s := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "?").Replace(string(content))
	var b strings.Builder
	for line := range strings.Lines(s) {
		line, ended := strings.CutSuffix(line, "\n")
		for len(line) > maxLine {
			head := cut(line, maxLine-1)
			b.WriteString(head + "\r\n")
			line = " " + line[len(head):]
		}
		b.WriteString(line)
		if ended {
			b.WriteString("\r\n")
		}
	}
	return b.String()
}

func clean(content []byte) bool {
	column := 0
	for i, c := range content {
		switch {
		case c == 0,
			c == '\n' && (i == 0 || content[i-1] != '\r'),
			c == '\r' && (i+1 == len(content) || content[i+1] != '\n'):
			return false
		case c == '\n':
			column = 0
		case c != '\r':
			if column++; column > maxLine {
				return false
			}
		}
	}
	return true
}
