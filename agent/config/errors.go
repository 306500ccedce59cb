package config

import (
	"fmt"
	"strings"
)

// Notice is one remark on a place in the configuration: what is to be said, and
// what to do about it.
type Notice struct {
	File string
	Line int // from 1; 0 when the remark is on the file as a whole
	Text string
}

// String writes the notice as compilers do: "file:line: text".
func (n Notice) String() string {
	switch {
	case n.File == "":
		return n.Text
	case n.Line == 0:
		return n.File + ": " + n.Text
	}
	return fmt.Sprintf("%s:%d: %s", n.File, n.Line, n.Text)
}

// Errors is everything that is wrong with a configuration, in the order of the
// files and their lines.
type Errors []Notice

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, n := range e {
		lines[i] = n.String()
	}
	return strings.Join(lines, "\n")
}

// remedy joins what is wrong and what to do, the form of all our messages.
func remedy(wrong, todo string) string { return wrong + "; remedy: " + todo }
