package wire

import (
	"strings"

	"github.com/emersion/go-milter"
)

// stages are the commands that macros are sent for, latest first: where two
// stages define the same macro the later one is right.
var stages = [...]milter.Code{milter.CodeEOB, milter.CodeBody, milter.CodeEOH, milter.CodeHeader, milter.CodeData,
	milter.CodeRcpt, milter.CodeMail, milter.CodeHelo, milter.CodeConn}

// macros keeps the macros of each stage apart. A stage's macros are those of
// the packet that came directly for its last command: none, if none came.
type macros map[milter.Code]*stageMacros

type stageMacros struct {
	values map[string]string
	ahead  bool // came for a command that has not come yet
}

// define takes a macro packet's data: a command, then names and values.
func (m macros) define(data []byte) {
	code := milter.Code(data[0])
	if !m.known(code) {
		return
	}
	s, ok := cstrings(data[1:])
	if !ok {
		s = strings.Split(string(data[1:]), "\x00")
	}
	values := make(map[string]string, len(s)/2)
	for i := 0; i+1 < len(s); i += 2 {
		values[bare(s[i])] = s[i+1]
	}
	m[code] = &stageMacros{values, true}
}

// began notes that a command came: macros that were sent for an earlier one of
// the same kind no longer hold.
func (m macros) began(c milter.Code) {
	if s := m[c]; s != nil {
		if !s.ahead {
			delete(m, c)
		}
		s.ahead = false
	}
}

// endMessage forgets all that belongs to one message. Only the macros of a MAIL
// that follows may have come already.
func (m macros) endMessage() {
	for _, c := range stages {
		s := m[c]
		if s == nil || c == milter.CodeConn || c == milter.CodeHelo || c == milter.CodeMail && s.ahead {
			continue
		}
		delete(m, c)
	}
}

func (macros) known(c milter.Code) bool {
	for _, s := range stages {
		if s == c {
			return true
		}
	}
	return false
}

func (m macros) find(name string) string {
	for _, c := range stages {
		if v, ok := m.at(c, name); ok {
			return v
		}
	}
	return ""
}

func (m macros) at(c milter.Code, name string) (string, bool) {
	s := m[c]
	if s == nil || s.ahead {
		return "", false
	}
	v, ok := s.values[name]
	return v, ok
}

// bare takes the braces off a macro's name.
func bare(name string) string {
	if len(name) > 2 && name[0] == '{' && name[len(name)-1] == '}' {
		return name[1 : len(name)-1]
	}
	return name
}
