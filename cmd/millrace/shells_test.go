//go:build !race

// Shells call the command dozens of times, one after the other; with the race detector each
// call takes five times as long, and there is nothing for it to see.

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/control"
)

// streams is an agent with one stream that mail has named.
type streams struct {
	backend
	name string
}

func (s streams) Streams() []control.Stream { return []control.Stream{{Name: s.name, Waiting: 1}} }

// typedNames are those of hostileNames that are also tried in real shells.
var typedNames = []string{
	"$(pwn)", "`pwn`", "sale$(pwn)", "sale`pwn`", "sale;pwn", "sale\npwn", "sale'pwn", "sale\";pwn;\"", "sale';pwn;'", "sale\\;pwn", "--all", "(pwn)", "sale(pwn)", "sale pwn",
}

// Of a stream that mail has named nothing is typed by a shell on Tab, and nothing is run
// on Enter, however the word began that is completed.
func TestShellsCompleteNothingHostile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, name := range typedNames {
		text, err := os.ReadFile(serve(t, streams{name: name}))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range shells {
		t.Run(x.command[0], func(t *testing.T) {
			t.Parallel()
			here := filepath.Join(dir, x.command[0]) // no file's name fits either
			if err := os.Mkdir(here, 0o700); err != nil {
				t.Fatal(err)
			}
			pwned := filepath.Join(t.TempDir(), "pwned")
			s := open(t, nil, x.command...)
			s.keys(x.setUp+" && echo is set up", "Enter")
			s.until("\nis set up")
			s.keys(strings.ReplaceAll(x.pwn, "FILE", pwned), "Enter")
			s.keys("pwn && test -e "+pwned+" && rm "+pwned+" && cd "+here+" && echo armed", "Enter")
			s.until("\narmed")
			s.keys(x.prompt, "Enter")
			for i, name := range typedNames {
				first := name[:1]
				if first == "-" {
					first = "" // flags begin so
				}
				begins := []string{first, `"` + first, "'" + first}
				if !allBeginnings {
					begins = begins[i%len(begins):][:1]
				}
				for _, begin := range append(begins, "") {
					s.keys("clear", "Enter")
					s.alone("P>")
					typed := fmt.Sprintf("millrace -c ../%d pause %s", i, begin)
					s.keys(typed, "Tab", "XQ") // what follows is shown when Tab has done its work
					s.until("XQ")
					line := s.last("P> ")
					if line != typed+"XQ" {
						t.Errorf("of %q is typed: %s", name, line)
					}
					s.keys(closing(line), "Enter")
					s.until("P> " + line + closing(line) + "\n")
					s.again("P>")
					if _, err := os.Stat(pwned); err == nil {
						t.Fatalf("completing %s ran %q:\n%s", typed, name, s.screen())
					}
				}
			}
		})
	}
}

// closing is what ends the quotes and parentheses that are open in a line.
func closing(line string) (end string) {
	for _, q := range []string{`"`, "'", "`"} {
		if strings.Count(line, q)%2 == 1 {
			end = q + end
		}
	}
	return strings.Repeat(")", strings.Count(line, "(")-strings.Count(line, ")")) + end
}

// sourced is an agent with sites whose names have their sources.
type sourced struct{ backend }

func (s sourced) Status() control.Status {
	return control.Status{Sites: []control.Site{{Name: "far.example:192.0.2.11"}, {Name: "far.example:192.0.2.22"}}}
}

// TestShellsComplete types into the shells themselves.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	config := serve(t, sourced{})
	for _, x := range shells {
		t.Run(x.command[0], func(t *testing.T) {
			t.Parallel()
			s := open(t, nil, x.command...)
			s.keys(x.setUp+" && echo is set up", "Enter")
			s.until("\nis set up")
			s.keys("cd "+filepath.Dir(config)+" && clear", "Enter")
			s.keys("millrace -c millrace.toml que", "Tab")
			s.until("millrace -c millrace.toml queue")
			s.keys("--sta", "Tab")
			s.until(".toml queue --state")
			s.keys("def", "Tab")
			s.until(" --state deferred")
			s.keys("--stream sale", "Tab")
			s.until(" --stream sale.example.com")
			s.keys("C-c", "clear", "Enter")
			s.keys("millrace -c millrace.toml why far.ex", "Tab") // bash takes a colon for the end of a word
			s.until("millrace.toml why far.example:192.0.2.")
			s.keys("2", "Tab")
			s.until("millrace.toml why far.example:192.0.2.22")
			s.keys("C-c", "clear", "Enter")
			s.keys("millrace report mill", "Tab") // a file's name
			s.until("millrace report millrace.toml")
		})
	}
}
