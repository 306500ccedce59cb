package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// letters are the messages of these tests, by the names of their files.
var letters = map[string]string{
	"news.eml": "Return-Path: <news-bounces+ann=gmail.com@lists.example.net>\r\nFrom: Ann <ann@example.net>\r\nTo: news@lists.example.net\r\n" +
		"List-Id: News\r\n\t<news.lists.example.net>\r\nList-Post: <mailto:news@lists.example.net>\r\nPrecedence: list\r\n\r\nFrom: body\r\n",
	"receipt.eml": "From shop@shop.example Mon Mar  2 09:00:00 2026\nFrom: Shop <shop@shop.example>\nTo: Bob <bob@web.de>\n" +
		"Subject: Your order 17\nList-Unsubscribe: <https://shop.example/u>\nFeedback-ID: 1:2:3:shop\n\nThanks\n",
	"plain.eml": "From: ann@example.com\nSubject: hello\n",
}

func writeLetters(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range letters {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestVerdictTellsWhatTheMilterWouldDecide runs the command, without a daemon.
func TestVerdictTellsWhatTheMilterWouldDecide(t *testing.T) {
	t.Parallel()
	dir := writeLetters(t)
	config := filepath.Join(dir, "millrace.toml")
	text := "hostname = 'mail.example.com'\n[milter]\nhost_domains = ['example.com']\n[[milter.rule]]\nname = 'joe'\naction = 'divert'\nauth_user = ['joe']\nstream = 'joes'\npool = 'news'\n[[pool]]\nname = 'news'\naddresses = ['192.0.2.1']\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, x := range map[string]struct {
		args []string
		want []opinion
	}{
		"several": {[]string{at("news.eml"), at("receipt.eml"), at("plain.eml")}, []opinion{
			{at("news.eml"), true, "List-Id, Precedence, list software, list's sender",
				[]string{"opt-in: List-Id", "opt-in: Precedence", "list-software: list software", "structure: list's sender"}, "news.lists.example.net", ""},
			{at("receipt.eml"), false, "no evidence of bulk but List-Unsubscribe, Feedback-ID",
				[]string{"opt-in: List-Unsubscribe", "opt-in: Feedback-ID"}, "", ""},
			{at("plain.eml"), false, "no evidence of bulk", []string{}, "", ""},
		}},
		"a user":       {[]string{"--user", "joe", at("plain.eml")}, []opinion{{at("plain.eml"), true, "rule says divert", []string{}, "joes", "news"}}},
		"null sender":  {[]string{"--sender", "<>", at("news.eml")}, []opinion{{at("news.eml"), false, "null sender", []string{}, "", ""}}},
		"empty sender": {[]string{"--sender=", at("news.eml")}, []opinion{{at("news.eml"), false, "null sender", []string{}, "", ""}}},
		"local":        {[]string{"--rcpt", "eve@example.com", at("news.eml")}, []opinion{{at("news.eml"), false, "no remote recipient", []string{}, "", ""}}},
		"both kinds": {[]string{"--rcpt", "eve@example.com", "--rcpt", "bob@web.de", "--sender", "owner-news@example.com", at("plain.eml")},
			[]opinion{{at("plain.eml"), false, "no evidence of bulk but list's sender", []string{"structure: list's sender"}, "", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := millrace(t, "", append([]string{"--config", config, "verdict", "--json"}, x.args...)...)
			if r.code != 0 {
				t.Fatalf("%+v", r)
			}
			var got []opinion
			for d := json.NewDecoder(strings.NewReader(r.stdout)); d.More(); {
				var o opinion
				if err := d.Decode(&o); err != nil {
					t.Fatal(err)
				}
				got = append(got, o)
			}
			if !reflect.DeepEqual(got, x.want) {
				t.Errorf("%+v\nwant\n%+v", got, x.want)
			}
		})
	}
	r := millrace(t, "", "--config", config, "verdict", at("news.eml"), at("plain.eml"))
	if want := at("news.eml") + `: divert, stream news.lists.example.net: List-Id, Precedence, list software, list's sender
    opt-in: List-Id
    opt-in: Precedence
    list-software: list software
    structure: list's sender
` + at("plain.eml") + ": leave: no evidence of bulk\n"; r.stdout != want || r.code != 0 {
		t.Errorf("%+v, want\n%s", r, want)
	}
	for _, args := range [][]string{{"verdict", at("none.eml")}, {"verdict", config + "/x"}} {
		if r := millrace(t, "", append([]string{"--config", config}, args...)...); r.code != 1 {
			t.Errorf("%q: %+v", args, r)
		}
	}
	if r := millrace(t, "", "--config", at("none.toml"), "verdict", at("news.eml")); r.code != 78 {
		t.Errorf("no configuration: %+v", r)
	}
}

func TestVerdictReadsStandardInputWithinBounds(t *testing.T) {
	t.Parallel()
	c := verdictCmd{Files: []string{"-"}}
	cfg := observing().Milter
	var out strings.Builder
	if err := c.print(&out, strings.NewReader(letters["news.eml"]), &cfg); err != nil || !strings.HasPrefix(out.String(), "-: divert, ") {
		t.Errorf("%q, %v", out.String(), err)
	}
	for _, text := range []string{"", "\n\nFrom: x\n", strings.Repeat("X: y\n", maxHead/5+1), strings.Repeat("x", 2*maxHead)} {
		if err := c.print(&out, strings.NewReader(text), &cfg); err == nil {
			t.Errorf("%d octets were taken for a message", len(text))
		}
	}
}

// TestVerdictLeavesWhatIsTooLarge has a message of one octet more than max_message_size, by
// file, by standard input, and as the first of a mailbox file, whose size is not its own.
func TestVerdictLeavesWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	cfg := observing().Milter
	text := letters["news.eml"] + strings.Repeat("x", 100_000)
	file := filepath.Join(t.TempDir(), "news.eml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		file, stdin string
		most        int
		want        string
	}{
		{file, "", len(text), "divert, "},
		{file, "", len(text) - 1, "leave: message is larger than max_message_size"},
		{"-", text, len(text), "divert, "},
		{"-", text, len(text) - 1, "leave: message is larger than max_message_size"},
		{"-", text, 0, "divert, "},
		{"-", "From a@b.example Mon Mar  2 09:00:00 2026\n" + text, 10_000, "divert, "},
	} {
		cfg.MaxMessageSize = config.Size(x.most)
		c := verdictCmd{Files: []string{x.file}}
		var out strings.Builder
		if err := c.print(&out, strings.NewReader(x.stdin), &cfg); err != nil || !strings.HasPrefix(out.String(), x.file+": "+x.want) {
			t.Errorf("%s, at most %d octets of %d: %q, %v; want %s", x.file, x.most, len(text), out.String(), err, x.want)
		}
	}
}

// TestVerdictJudgesTheOthers has a directory and a file that is not there among messages,
// as a Maildir's listing may.
func TestVerdictJudgesTheOthers(t *testing.T) {
	t.Parallel()
	dir := writeLetters(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	cfg := observing().Milter
	c := verdictCmd{Files: []string{at("none.eml"), dir, at("news.eml"), at("plain.eml")}}
	var out strings.Builder
	err := c.print(&out, strings.NewReader(""), &cfg)
	if s := out.String(); !strings.Contains(s, "news.eml: divert, ") || !strings.Contains(s, "plain.eml: leave: ") {
		t.Errorf("judged:\n%s", s)
	}
	if err == nil || !errors.Is(err, os.ErrNotExist) || !errors.Is(err, syscall.EISDIR) {
		t.Errorf("told: %v", err)
	}
}

// TestVerdictReadsHeadersAsPostfixDoes has a blank before a colon (RFC 5322 4.5), which
// Postfix takes for part of a header.
func TestVerdictReadsHeadersAsPostfixDoes(t *testing.T) {
	t.Parallel()
	cfg := observing().Milter
	c := verdictCmd{Files: []string{"-"}}
	var out strings.Builder
	err := c.print(&out, strings.NewReader("From : a@b.example\nX-Odd\t: y\nX-Millrace: divert\n\n"), &cfg)
	if s := out.String(); err != nil || !strings.HasPrefix(s, "-: divert, stream b.example") {
		t.Errorf("%q, %v", s, err)
	}
}

// TestVerdictAsksForASenderThatTheHeaderDoesNotName wants no talk of the null sender where
// only nothing is known of the sender.
func TestVerdictAsksForASenderThatTheHeaderDoesNotName(t *testing.T) {
	t.Parallel()
	cfg := observing().Milter
	sender := "a@b.example"
	for _, c := range []struct {
		header string
		sender *string
		want   string // of the answer or the error
	}{
		{"Subject: x\n\n", nil, "--sender"},
		{"Subject: x\n\n", &sender, "no evidence of bulk"},
		{"Return-Path: <>\nSubject: x\n\n", nil, "null sender"},
	} {
		v := verdictCmd{Files: []string{"-"}, Sender: c.sender}
		var out strings.Builder
		err := v.print(&out, strings.NewReader(c.header), &cfg)
		if err != nil {
			out.WriteString(err.Error())
		}
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: %s", c.header, out.String())
		}
	}
}

// TestVerdictEndsAtOnceWhenItIsTold has it wait for a message that does not come.
func TestVerdictEndsAtOnceWhenItIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config, pipe := filepath.Join(dir, "millrace.toml"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(config, []byte("hostname = 'mail.example.com'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "--config", config, "verdict", pipe)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // returns when the other side reads
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v", cmd.ProcessState)
	}
}

// TestVerdictTellsFilesApartWhateverTheirNames has names of another character set, which
// JSON cannot hold.
func TestVerdictTellsFilesApartWhateverTheirNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	names := []string{"caf\xe9.eml", "caf\xe8.eml", "café.eml", "\xff\\\n.eml"}
	want := []string{`caf\xe9.eml`, `caf\xe8.eml`, "café.eml", `\xff\\\n.eml`}
	c := verdictCmd{JSON: true}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(letters["plain.eml"]), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Files = append(c.Files, filepath.Join(dir, name))
	}
	cfg := observing().Milter
	var out strings.Builder
	if err := c.print(&out, nil, &cfg); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(out.String()))
	for i := range names {
		var o opinion
		if err := dec.Decode(&o); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimPrefix(o.File, dir+"/"); got != want[i] {
			t.Errorf("%q is named %q, want %q", names[i], got, want[i])
		}
	}
	c.JSON, c.Files = false, append(c.Files[:2], filepath.Join(dir, "gone\xe9.eml"))
	out.Reset()
	err := c.print(&out, nil, &cfg)
	if !strings.Contains(out.String(), `caf\xe9.eml: leave`) || !strings.Contains(out.String(), `caf\xe8.eml: leave`) {
		t.Errorf("printed %s", out.String())
	}
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), `gone\xe9.eml`) {
		t.Errorf("of a file that is not there: %v", err)
	}
	// As an argument such a name is taken as it is, a configuration's too.
	config := filepath.Join(dir, "\xe9.toml")
	if err := os.WriteFile(config, []byte("hostname = 'mail.example.com'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := millrace(t, "", "--config", config, "verdict", filepath.Join(dir, names[0])); r.code != 0 || !strings.Contains(r.stdout, `caf\xe9.eml: leave`) {
		t.Errorf("%+v", r)
	}
}
