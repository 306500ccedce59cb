package config

import (
	"strconv"
	"strings"
)

// scanLines returns the line of every key, table and list element of a TOML
// file, by its path: "general.tls", "queue[0]", "queue[0].domains[2]". The file
// must be one that the TOML parser took: what would be a syntax error is not
// noticed here.
func scanLines(text string) map[string]int {
	s := scanner{text: text, line: 1, lines: map[string]int{}, tables: map[string]int{}}
	table := ""
	for s.skip(" \t\r\n"); s.pos < len(s.text); s.skip(" \t\r\n") {
		if s.text[s.pos] == '[' {
			table = s.header()
			continue
		}
		s.keyValue(table)
	}
	return s.lines
}

type scanner struct {
	text   string
	pos    int
	line   int
	lines  map[string]int
	tables map[string]int // array of tables -> its elements so far
}

// skip moves over the given blanks and over comments.
func (s *scanner) skip(blanks string) {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '#':
			for s.pos < len(s.text) && s.text[s.pos] != '\n' {
				s.pos++
			}
		case strings.IndexByte(blanks, c) >= 0:
			if c == '\n' {
				s.line++
			}
			s.pos++
		default:
			return
		}
	}
}

// header reads "[a.b]" or "[[a.b]]" and returns the path that keys under it
// start with. A part that names an array of tables means its last element.
func (s *scanner) header() string {
	line, array := s.line, strings.HasPrefix(s.text[s.pos:], "[[")
	s.skipByte('[')
	s.skipByte('[')
	path := ""
	parts := s.key()
	for i, part := range parts {
		path = join(path, part)
		if i == len(parts)-1 && array {
			s.tables[path]++
		}
		if n := s.tables[path]; n > 0 {
			path += "[" + strconv.Itoa(n-1) + "]"
		}
	}
	s.skip(" \t")
	s.skipByte(']')
	s.skipByte(']')
	s.lines[path] = line
	return path
}

func (s *scanner) skipByte(c byte) {
	if s.pos < len(s.text) && s.text[s.pos] == c {
		s.pos++
	}
}

// key reads a possibly dotted, possibly quoted key.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.skip(" \t")
		start := s.pos
		if s.pos < len(s.text) && (s.text[s.pos] == '"' || s.text[s.pos] == '\'') {
			s.quoted()
			part := s.text[start:s.pos]
			if u, err := strconv.Unquote(part); err == nil && part[0] == '"' {
				part = u
			} else {
				part = strings.Trim(part, `"'`)
			}
			parts = append(parts, part)
		} else {
			for s.pos < len(s.text) && !strings.ContainsRune(".=] \t\r\n", rune(s.text[s.pos])) {
				s.pos++
			}
			parts = append(parts, s.text[start:s.pos])
		}
		s.skip(" \t")
		if s.pos == len(s.text) || s.text[s.pos] != '.' {
			return parts
		}
		s.pos++
	}
}

// keyValue reads "a.b = value" inside the given table.
func (s *scanner) keyValue(table string) {
	line, path := s.line, table
	for _, part := range s.key() {
		path = join(path, part)
		if _, ok := s.lines[path]; !ok { // a dotted key makes its tables
			s.lines[path] = line
		}
	}
	s.skip(" \t")
	if s.pos == len(s.text) || s.text[s.pos] != '=' {
		s.pos = len(s.text) // not TOML; give up
		return
	}
	s.pos++
	s.skip(" \t")
	s.value(path)
}

func (s *scanner) value(path string) {
	if s.pos == len(s.text) {
		return
	}
	switch s.text[s.pos] {
	case '"', '\'':
		s.quoted()
	case '[':
		s.pos++
		for i := 0; ; i++ {
			s.skip(" \t\r\n,")
			if s.pos == len(s.text) || s.text[s.pos] == ']' {
				break
			}
			element := path + "[" + strconv.Itoa(i) + "]"
			s.lines[element] = s.line
			s.value(element)
		}
		s.skipByte(']')
	case '{':
		s.pos++
		for {
			s.skip(" \t\r\n,")
			if s.pos == len(s.text) || s.text[s.pos] == '}' {
				break
			}
			s.keyValue(path)
		}
		s.skipByte('}')
	default: // a number, a date, true or false
		start := s.pos
		for s.pos < len(s.text) && !strings.ContainsRune(",]}#\r\n", rune(s.text[s.pos])) {
			s.pos++
		}
		if s.pos == start {
			s.pos = len(s.text) // not TOML; give up
		}
	}
}

// quoted moves over a string of any of TOML's four kinds.
func (s *scanner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], triple) {
		quote = triple
	}
	s.pos += len(quote)
	for s.pos < len(s.text) && !strings.HasPrefix(s.text[s.pos:], quote) {
		if s.text[s.pos] == '\\' && quote[0] == '"' {
			s.pos++
		}
		if s.pos < len(s.text) && s.text[s.pos] == '\n' {
			s.line++
		}
		s.pos++
	}
	s.pos = min(s.pos+len(quote), len(s.text))
	// A triple-quoted string may end in one or two quotes of its own.
	for len(quote) == 3 && s.pos < len(s.text) && s.text[s.pos] == quote[0] {
		s.pos++
	}
}

func join(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}
