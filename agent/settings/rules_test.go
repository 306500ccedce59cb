package settings

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
)

var sampleForm = regexp.MustCompile(`^(\d{3}) (?:(\d\.\d{1,3}\.\d{1,3}) )?(.+)$`)

// TestEachShippedRuleIsForItsSamples shows that every rule can match, that none is
// shadowed by one before it, and that it has been looked at.
func TestEachShippedRuleIsForItsSamples(t *testing.T) {
	t.Parallel()
	list := shippedReplies(t)
	rules, err := ReplyRules(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules) < 30 {
		t.Errorf("%d rules are shipped", len(rules))
	}
	for i, r := range list {
		if _, err := time.Parse(time.DateOnly, r.Checked); err != nil {
			t.Errorf("%s: checked %q is no day", r.Name, r.Checked)
		}
		if len(r.Sample) == 0 {
			t.Errorf("%s has no sample", r.Name)
		}
		for _, sample := range r.Sample {
			f := sampleForm.FindStringSubmatch(sample)
			if f == nil {
				t.Errorf("%s: %q is no reply", r.Name, sample)
				continue
			}
			code, _ := strconv.Atoi(f[1])
			host := "mx1.receiver.example"
			if len(r.MX) > 0 {
				host = "MX1" + strings.TrimPrefix(r.MX[0], "*")
			}
			stages := rules[i].Stages
			if stages == nil {
				stages = []outcome.Stage{outcome.Mail, outcome.Rcpt, outcome.Data}
			}
			for _, stage := range stages {
				d := outcome.Policy{Rules: rules}.Decide(time.Now(), outcome.Attempt{
					Stage: stage, Code: code, Enhanced: f[2], Text: f[3], Peer: host + "[192.0.2.1]",
				})
				if d.Effect == nil || d.Effect.Rule != r.Name {
					t.Errorf("%s: %q is matched by %+v", r.Name, sample, d.Effect)
				} else if r.Class != "" && d.Class.String() != r.Class {
					t.Errorf("%s: %q has class %s", r.Name, sample, d.Class)
				}
				if later := d.Action == outcome.Retry; !later && (d.Effect == nil || d.Effect.Kind != outcome.HoldStream) {
					t.Errorf("%s: %q is no reason to bounce", r.Name, sample)
				}
				if d.Class.Hard() {
					t.Errorf("%s: %q is our fault, or nobody's, and counts as hard", r.Name, sample)
				}
			}
		}
	}
}

func TestConfigurationAndOutcomeSpeakOfTheSameThings(t *testing.T) {
	t.Parallel()
	for _, r := range shippedReplies(t) {
		if _, ok := outcome.ParseClass(r.Class); r.Class != "" && !ok {
			t.Errorf("%s: class %q", r.Name, r.Class)
		}
		if _, ok := effects[r.Action]; r.Action != "" && !ok {
			t.Errorf("%s: action %q", r.Name, r.Action)
		}
	}
}

// shippedReplies are the rules of a configuration that says nothing about them.
func shippedReplies(t *testing.T) []config.Reply {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace.toml")
	if err := os.WriteFile(path, []byte("hostname = \"mail.example.com\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c.Replies
}

// What Yahoo defers for good it defers for what our address did before: the two codes are
// alike, the site is left alone for a time, and an admin is told.
func TestYahooSaysThatItDistrustsUs(t *testing.T) {
	t.Parallel()
	rules, err := ReplyRules(shippedReplies(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"TSS09", "TSS11"} {
		d := outcome.Policy{Rules: rules}.Decide(time.Now(), outcome.Attempt{
			Stage: outcome.Mail, Code: 553, Enhanced: "5.7.2", Text: "[" + code + "] All messages from 192.0.2.7 will be permanently deferred",
			Peer: "mta5.am0.yahoodns.net[192.0.2.1]",
		})
		if d.Class != outcome.ClassReputation || d.Action != outcome.Retry || d.Hard || d.Effect == nil || d.Effect.Kind != outcome.Suspend || !d.Effect.Tell {
			t.Errorf("%s: %+v, effect %+v", code, d, d.Effect)
		}
	}
}
