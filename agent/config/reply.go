package config

import (
	_ "embed"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// ReplyAction is what follows from a reply that a rule matched, beyond the fate of
// the recipient it was about.
type ReplyAction string

// The actions of a reply rule.
const (
	ReplySlow      ReplyAction = "slow"      // the site goes on at half its pace
	ReplySuspend   ReplyAction = "suspend"   // the site sees no connection
	ReplySessions  ReplyAction = "sessions"  // the site gets at most so many sessions
	ReplyLearn     ReplyAction = "learn"     // the connection has had its messages; it is no failure
	ReplyRecipient ReplyAction = "recipient" // only this recipient waits
	ReplyRetry     ReplyAction = "retry"     // a 5xx that means "later"
	ReplyBounce    ReplyAction = "bounce"    // a 4xx that means "never"
	ReplyPause     ReplyAction = "pause"     // the stream waits, at the site
	ReplyHold      ReplyAction = "hold"      // likewise, or everywhere until an admin resumes it
)

// Reply is one [[reply]]: how to read what a receiver says, and what to do about
// it. Every condition that is given must hold; the first rule that matches wins,
// those of the configuration before the shipped ones. One of the configuration
// takes the place of a shipped one with its name.
type Reply struct {
	// Name names the rule in logs; required, and each name once.
	Name string `toml:"name"`
	// MX are globs over the name of the host that spoke. Default: any.
	MX []string `toml:"mx"`
	// Stage is what the reply answered: "connect", "tls", "mail", "rcpt", "data".
	// Default: any.
	Stage []string `toml:"stage"`
	// Code are globs over the three digits: "421", "4??". Default: any.
	Code []string `toml:"code"`
	// Enhanced are globs over the enhanced status code: "4.7.28", "4.7.5??".
	// Default: any, also none.
	Enhanced []string `toml:"enhanced"`
	// Text is a regular expression (Go syntax) over the text, case folded.
	// Default: any.
	Text string `toml:"text"`

	// Class is the bounce class, as logs and reports show it: "userunknown",
	// "ratelimited" ... Default: what Millrace makes of the reply itself.
	Class string `toml:"class"`
	// Action is "slow", "suspend", "sessions", "pause" or "hold", each from the
	// After-th match on; or "learn", "recipient", "retry", "bounce". Default: none.
	// Pause and hold stop the stream at the site. Hold stops it everywhere, until an admin
	// resumes it, when a 5xx came After times from hosts that the mx of the rule or of
	// their queue names, or from so many different networks, at least 5.
	Action ReplyAction `toml:"action"`
	// For is how long slow, suspend, sessions and pause last; required with them. Of hold
	// it is for the site. Default: "1h", of hold alone.
	For time.Duration `toml:"for"`
	// Sessions is the bound of "sessions"; required with it.
	Sessions int `toml:"sessions"`
	// After is how many matches at a site within the time Within it takes; until then a match
	// is evidence for the controller and no more. Default: 1.
	After int `toml:"after"`
	// Within is that time. Default: "10m".
	Within time.Duration `toml:"within"`
	// Tell makes an action be logged as an error, and /readyz show it while it
	// lasts: a person has to look at its cause. Default: false.
	Tell bool `toml:"tell"`

	// Checked is the day, "2026-11-24", when the rule was last compared with what
	// the receiver says or publishes; not used.
	Checked string `toml:"checked"`
	// Sample are replies that the rule is for, "421 4.7.28 text"; not used but by
	// tests and readers.
	Sample []string `toml:"sample"`

	File string `toml:"-"` // where the rule stands, for messages
	Line int    `toml:"-"`
}

// replyStages and replyClasses are the words of Stage and Class; package outcome
// has the meaning.
func replyStages() []string { return []string{"connect", "tls", "mail", "rcpt", "data"} }

func replyClasses() []string {
	return []string{"userunknown", "hostunknown", "hasmoved", "mailboxfull", "ratelimited", "reputation", "authentication",
		"policy", "content", "network", "tls", "protocol", "greylisted", "toobig", "sizelimit", "system", "connections",
		"suspended", "toomanyrecipients", "undefined"}
}

//go:embed replies.toml
var shippedReplies string

// shippedName stands for the file of the built-in rules in messages.
const shippedName = "built-in replies.toml"

// replies appends the shipped rules: those of the file that agent.replies names, or
// the built-in ones.
func (l *loader) replies() {
	s := source{file: shippedName, tree: map[string]any{}}
	text := shippedReplies
	if name := l.cfg.Agent.Replies; name != "" {
		b, err := os.ReadFile(name)
		if err != nil {
			l.fail("agent.replies", remedy(fmt.Sprintf("replies: %s cannot be read: %s", name, cause(err)),
				"let the program's user read it, or leave the key out for the built-in rules"))
			return
		}
		s.file, text = name, string(b)
	}
	if _, err := toml.Decode(text, &s.tree); err != nil {
		n := Notice{File: s.file, Text: err.Error()}
		if parse, ok := err.(toml.ParseError); ok {
			n.Line, n.Text = parse.Position.Line, parse.Message
		}
		n.Text = remedy("not TOML: "+n.Text, "leave agent.replies out for the built-in rules")
		l.errs = append(l.errs, n)
		return
	}
	s.lines = scanLines(text)
	t := tree{l, s}
	for _, key := range t.byLine(s.tree, "") {
		if key != "reply" {
			l.errs = append(l.errs, Notice{s.file, t.line(key), remedy(fmt.Sprintf("unknown key %q", key), "only [[reply]] may stand here")})
			return
		}
		t.table(map[string]any{key: s.tree[key]}, l.cfg, "", "")
	}
}

// checkReplies looks at the rules about replies, of the configuration and shipped.
func (l *loader) checkReplies() {
	names := map[string]Reply{}
	for i := range l.cfg.Replies {
		r, at := &l.cfg.Replies[i], fmt.Sprintf("reply[%d]", i)
		switch first, twice := names[r.Name]; {
		case l.bad[at+".name"]:
		case r.Name == "":
			l.fail(at, remedy("a reply rule without a name", `give it one: name = "google-rate"`))
		case twice && l.shipped(*r) && !l.shipped(first):
		case twice:
			l.fail(at+".name", remedy(fmt.Sprintf("name: there is a rule %q already at %s:%d", r.Name, first.File, first.Line), "choose another name"))
		default:
			names[r.Name] = *r
		}
		l.checkReply(r, at)
	}
	l.cfg.Replies = slices.DeleteFunc(l.cfg.Replies, func(r Reply) bool { return l.shipped(r) && !l.shipped(names[r.Name]) })
}

// shipped reports whether a rule comes from the file of the shipped ones.
func (l *loader) shipped(r Reply) bool { return r.File == shippedName || r.File == l.cfg.Agent.Replies }

func (l *loader) checkReply(r *Reply, at string) {
	for i, s := range r.Stage {
		if !slices.Contains(replyStages(), s) {
			l.failElement(at+".stage", i, remedy(fmt.Sprintf("stage: %q is unknown", s), "write one of "+strings.Join(replyStages(), ", ")))
		}
	}
	l.globs(at+".code", r.Code, digitGlob(`"421" or "4??"`))
	l.globs(at+".enhanced", r.Enhanced, digitGlob(`"4.7.28" or "4.7.5??"`))
	l.globs(at+".mx", r.MX, plainGlob)
	if _, err := regexp.Compile(r.Text); err != nil {
		l.fail(at+".text", remedy("text: "+err.Error(), "write a regular expression in the syntax of Go's package regexp"))
	}
	conditions := []string{"mx", "stage", "code", "enhanced", "text"}
	if !slices.ContainsFunc(conditions, func(key string) bool { _, given := l.at[at+"."+key]; return given }) {
		l.fail(at, remedy(fmt.Sprintf("rule %q has no condition and would match every reply", r.Name), "add one of "+strings.Join(conditions, ", ")))
	}
	if r.Class != "" && !slices.Contains(replyClasses(), r.Class) {
		l.fail(at+".class", remedy(fmt.Sprintf("class: %q is unknown", r.Class), "write one of "+strings.Join(replyClasses(), ", ")))
	}
	switch r.Action {
	case ReplySlow, ReplySuspend, ReplySessions, ReplyPause:
		if r.For == 0 && !l.bad[at+".for"] {
			l.fail(at, remedy(fmt.Sprintf("rule %q does not say how long", r.Name), `add for = "30m"`))
		}
	}
	if (r.Action == ReplySessions) != (r.Sessions > 0) && !l.bad[at+".sessions"] {
		l.fail(at, remedy(fmt.Sprintf("rule %q: sessions is for action \"sessions\", and that needs it", r.Name), "add sessions = 1, or leave it out"))
	}
}

// digitGlob looks at a glob over a reply code or an enhanced status code.
func digitGlob(example string) func(string) string {
	return func(glob string) string {
		if _, err := path.Match(glob, ""); err != nil || glob == "" || strings.Trim(glob, "0123456789.?*[-]") != "" {
			return remedy(fmt.Sprintf("%q is not a pattern", glob), "write it like "+example)
		}
		return ""
	}
}
