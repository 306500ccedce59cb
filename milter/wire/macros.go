package wire

import (
	"bytes"
	"errors"

	"github.com/emersion/go-milter"
)

// stages are the commands that macros are sent for, latest first: where two
// stages define the same macro the later one is right.
var stages = [...]milter.Code{milter.CodeEOB, milter.CodeBody, milter.CodeEOH, milter.CodeHeader, milter.CodeData,
	milter.CodeRcpt, milter.CodeMail, milter.CodeHelo, milter.CodeConn}

// maxMacros bounds the macros of one command, in octets. Real ones are some
// hundred, a client's certificate among them a few thousand.
const maxMacros = 64 << 10

// macros keeps the macros of each stage apart. A stage's macros are those of
// the packet that came directly for its last command: none, if none came. They
// stay as they came, names and values each with a NUL: a message asks for few
// of them.
type macros [len(stages)]struct {
	data  []byte
	ahead bool // came for a command that has not come yet
}

// define takes a macro packet's data: a command, then names and values.
func (m *macros) define(data []byte) error {
	if len(data) > maxMacros {
		return errors.New("macros are too long")
	}
	if i := stageOf(milter.Code(data[0])); i >= 0 {
		m[i].data, m[i].ahead = append(m[i].data[:0], data[1:]...), true
	}
	return nil
}

// began notes that a command came: macros that were sent for an earlier one of
// the same kind no longer hold.
func (m *macros) began(c milter.Code) {
	if i := stageOf(c); i >= 0 {
		if !m[i].ahead {
			m.forget(i)
		}
		m[i].ahead = false
	}
}

// endMessage forgets all that belongs to one message. Only the macros of a MAIL
// that follows may have come already.
func (m *macros) endMessage() {
	for i, c := range stages {
		if c == milter.CodeConn || c == milter.CodeHelo || c == milter.CodeMail && m[i].ahead {
			continue
		}
		m.forget(i)
	}
}

// forget keeps the room of ordinary macros.
func (m *macros) forget(i int) {
	if m[i].data = m[i].data[:0]; cap(m[i].data) > 1<<10 {
		m[i].data = nil
	}
	m[i].ahead = false
}

func stageOf(c milter.Code) int {
	for i, s := range stages {
		if s == c {
			return i
		}
	}
	return -1
}

// find returns the value at the latest stage that has one.
func (m *macros) find(name string) string {
	for i := range m {
		if v, ok := m.at(i, name); ok {
			return v
		}
	}
	return ""
}

// at returns the value at a stage; of a macro given twice the last one.
func (m *macros) at(i int, name string) (value string, ok bool) {
	if m[i].ahead {
		return "", false
	}
	for rest := m[i].data; len(rest) > 0; {
		var n, v []byte
		n, rest, _ = bytes.Cut(rest, []byte{0})
		var given bool
		v, rest, given = bytes.Cut(rest, []byte{0})
		if string(bare(n)) == name && (given || len(v) > 0) {
			value, ok = string(v), true
		}
	}
	return value, ok
}

// bare takes the braces off a macro's name.
func bare(name []byte) []byte {
	if len(name) > 2 && name[0] == '{' && name[len(name)-1] == '}' {
		return name[1 : len(name)-1]
	}
	return name
}
