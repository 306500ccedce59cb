package main

import (
	"fmt"
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
			return append([]string{"Spring-sale", "spare-" + config}, hostileNames...)
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
		{"queue/--stream/S", "Spring-sale"},
		{"--config/x/queue/--stream/s", "spare-x"},
		{"--config=y/queue/--stream/s", "spare-y"},
		{"-c/z/pause/s", "spare-z"},
		{"pause/one/s", ""},
		{"set/Sp", "Spring-sale"},
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

// shells are those that are completed for. pwn defines what must not be run; prompt makes
// the prompt "P> ", and fish show nothing that nobody has typed.
var shells = []struct {
	command            []string
	setUp, pwn, prompt string
}{
	{[]string{"bash", "--norc", "-i"}, ". <(millrace completion bash)", "pwn() { touch FILE; }", "PS1='P> '"},
	{[]string{"zsh", "-f", "-i"}, "autoload -U compinit && compinit -u -D && . <(millrace completion zsh)", "pwn() { touch FILE; }", "PS1='P> '; unsetopt prompt_sp"},
	{
		[]string{"fish", "--no-config"}, "millrace completion fish | source", "function pwn; touch FILE; end",
		"set -g fish_autosuggestion_enabled 0; function fish_prompt; echo -n 'P> '; end",
	},
}

// hostileNames are streams whose names a shell, or millrace, would take for more than a
// name. Each shell function that they call writes a file.
var hostileNames = []string{
	"$(pwn)", "`pwn`", "\"$(pwn)", "'$(pwn)", "sale$(pwn)", "sale`pwn`", "sale;pwn", "sale\npwn", "sale&pwn", "sale|pwn", "sale>pwned", "sale'pwn", "sale\"$(pwn)",
	"sale\\", "sale\\;pwn", "--all", "-pwn", "(pwn)", "sale(pwn)", "sale{a,b}", "~root", "=pwn", "!pwn", "sale!pwn", "sale*", "sale?", "sale[a]", "#pwn", "%1", "$HOME",
	"sale pwn", "sale\tpwn", "sale<pwn", "sale\u00a0", "sale\x1b[2J", "säle", "",
}

func TestOnlyPlainWordsAreCompleted(t *testing.T) {
	t.Parallel()
	for _, name := range hostileNames {
		if isWord(name) {
			t.Errorf("%q is a word", name)
		}
	}
	for _, name := range []string{"news.example.com", "a", "list_1-b+c", "camp:cust:bulk:esp", "a@b.example", "2026/11,x"} {
		if !isWord(name) {
			t.Errorf("%q is no word", name)
		}
	}
}
