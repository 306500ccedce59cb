package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/cmd/internal/program"
)

func model(t *testing.T) *kong.Node {
	t.Helper()
	k, err := kong.New(&cli{}, kong.Vars{"version": program.Version(), "config": "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	return k.Model.Node
}

func TestCompletionKnowsWhatFits(t *testing.T) {
	t.Parallel()
	node := model(t)
	names := func(kind, config string) []string {
		if kind == "stream" || kind == "name" {
			return []string{"Spring sale", "spare " + config}
		}
		return nil
	}
	for _, x := range []struct{ words, want string }{
		{"su", "suppress"},
		{"--c", "--config"},
		{"suppress/", "list add remove import export stats"},
		{"suppress/re", "remove"},
		{"suppress/list/--st", "--stream"},
		{"queue/--st", "--stream --state"},
		{"q/--st", "--stream --state"},
		{"queue/--state/", "active waiting deferred held stuck"},
		{"queue/--state/d", "deferred"},
		{"queue/--state=d", "--state=deferred"},
		{"queue/--state/=/d", "deferred"},
		{"queue/--state/held/--js", "--json"},
		{"queue/--json/", ""},
		{"queue/--stream/S", "Spring sale"},
		{"--config/x/queue/--stream/s", "spare x"},
		{"--config=y/queue/--stream/s", "spare y"},
		{"-c/z/pause/s", "spare z"},
		{"pause/one/s", ""},
		{"set/Sp", "Spring sale"},
		{"completion/", "bash zsh fish"},
		{"__", ""},
		{"nonsense/q", "queue"},
		{"cat/", ""},
	} {
		var got []string
		for _, c := range complete(node, strings.Split(x.words, "/"), names) {
			got = append(got, c.text)
		}
		if fmt.Sprint(got) != "["+x.want+"]" {
			t.Errorf("%s: %q, want %s", x.words, got, x.want)
		}
	}
	if got := complete(node, nil, names); got != nil {
		t.Errorf("no word at all: %v", got)
	}
}

// TestShellsComplete types into the shells themselves.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	config := serve(t, backend(nil))
	for _, x := range []struct {
		command []string
		setUp   string
	}{
		{[]string{"bash", "--norc", "-i"}, ". <(millrace completion bash)"},
		{[]string{"zsh", "-f", "-i"}, "autoload -U compinit && compinit -u -D && . <(millrace completion zsh)"},
		{[]string{"fish", "--no-config"}, "millrace completion fish | source"},
	} {
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
			s.keys("millrace report mill", "Tab") // a file's name
			s.until("millrace report millrace.toml")
		})
	}
}
