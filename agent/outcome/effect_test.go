package outcome

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/elastic"
)

// about is a policy with one rule.
func about(r Rule) Policy {
	p := policy()
	p.Rules = []Rule{r}
	return p
}

func TestEffectsDecideWhatARefusalMeans(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		kind     EffectKind
		stage    Stage
		code     int
		enhanced string

		action Action
		sig    elastic.Kind
		status string
	}{
		{NoEffect, Data, 550, "5.7.1", Bounce, elastic.Accepted, "5.7.1"},
		{Slow, Data, 550, "5.7.1", Retry, elastic.RateRefused, "4.7.1"},
		{Slow, Connect, 421, "4.7.1", Retry, elastic.Refused, "4.7.1"},
		{Suspend, Mail, 553, "5.7.1", Retry, elastic.Accepted, "4.7.1"},
		{Bound, Rcpt, 451, "4.7.1", Retry, elastic.Refused, "4.7.1"},
		{Learn, Mail, 421, "4.7.0", Retry, elastic.Closed, "4.7.0"},
		{Alone, Rcpt, 450, "4.2.1", Retry, elastic.Accepted, "4.2.1"},
		{Alone, Rcpt, 421, "4.2.1", Retry, elastic.Lost, "4.2.1"},
		{Later, Rcpt, 550, "5.7.1", Retry, elastic.Accepted, "4.7.1"},
		{Never, Rcpt, 450, "4.1.1", Bounce, elastic.Accepted, "5.1.1"},
		{Pause, Data, 550, "5.7.1", Retry, elastic.Accepted, "4.7.1"},
		{HoldStream, Data, 550, "5.7.26", Bounce, elastic.Accepted, "5.7.26"},
		{HoldStream, Data, 421, "4.7.27", Retry, elastic.Lost, "4.7.27"},
	} {
		p := about(Rule{Name: "r", Text: regexp.MustCompile("thing"), Effect: Effect{Rule: "r", Kind: x.kind}})
		d := p.Decide(born, Attempt{Stage: x.stage, Code: x.code, Enhanced: x.enhanced, Text: "something", Born: born})
		if d.Action != x.action || d.Signal != x.sig || d.Enhanced != x.status || d.Effect == nil {
			t.Errorf("kind %d, %d: action %v, signal %v, status %s; want %v, %v, %s",
				x.kind, x.code, d.Action, d.Signal, d.Enhanced, x.action, x.sig, x.status)
		}
	}
}

func TestRuleNeedsEachConditionThatIsGiven(t *testing.T) {
	t.Parallel()
	rule := Rule{Hosts: []string{"*.google.com"}, Stages: []Stage{Data}, Codes: []string{"4??"}, Enhanced: []string{"4.7.2[78]"}, Text: regexp.MustCompile("rate")}
	good := Attempt{Stage: Data, Code: 421, Enhanced: "4.7.28", Text: "unusual rate", Peer: "ALT1.aspmx.l.Google.com[192.0.2.1]"}
	if about(rule).Decide(born, good).Effect == nil {
		t.Fatal("the rule does not match what it is for")
	}
	for what, change := range map[string]func(*Attempt){
		"host": func(a *Attempt) { a.Peer = "mx.google.com.example[192.0.2.1]" }, "no host": func(a *Attempt) { a.Peer = "" },
		"stage": func(a *Attempt) { a.Stage = Mail }, "code": func(a *Attempt) { a.Code, a.Enhanced = 521, "" },
		"status": func(a *Attempt) { a.Enhanced = "4.7.29" }, "text": func(a *Attempt) { a.Text = "else" },
	} {
		a := good
		change(&a)
		if about(rule).Decide(born, a).Effect != nil {
			t.Errorf("matches with another %s", what)
		}
	}
}

func TestEffectTakesHoldAfterSoManyMatchesInItsTime(t *testing.T) {
	t.Parallel()
	var tally Tally
	e := &Effect{Rule: "r", Kind: Slow, After: 3, Within: 10 * time.Minute, For: time.Hour}
	now := born
	add := func(after time.Duration, place string) bool {
		now = now.Add(after)
		return tally.Add(now, e, place)
	}
	if add(0, "a") || add(time.Minute, "a") || add(0, "b") {
		t.Error("too early")
	}
	if add(9*time.Minute+30*time.Second, "a") {
		t.Error("the first is out of date")
	}
	if !add(time.Second, "a") {
		t.Error("three within ten minutes")
	}
	for range 10 {
		if add(time.Minute, "a") {
			t.Error("again, though it is in force")
		}
	}
	if add(time.Hour, "a") || add(0, "a") || !add(0, "a") {
		t.Error("once it is over, it takes three again")
	}
	if !new(Tally).Add(now, &Effect{Rule: "once", Kind: Suspend, For: time.Hour}, "a") {
		t.Error("without a threshold the first counts")
	}
}

// Whoever says it again and again counts once, and needs no more memory for it.
func TestSpeakerCountsOnce(t *testing.T) {
	t.Parallel()
	var tally Tally
	e := &Effect{Rule: "r", Kind: HoldStream, After: 3, Within: 10 * time.Minute}
	for range 1000 {
		if tally.AddBy(born, e, "a", "one") || tally.AddBy(born, e, "a", "two") {
			t.Fatal("two are three")
		}
	}
	if n := len(tally.matches[tallied{"r", "a"}]); n != 2 {
		t.Errorf("%d matches are remembered", n)
	}
	if now := born.Add(11 * time.Minute); tally.AddBy(now, e, "a", "three") || tally.AddBy(now, e, "a", "four") || !tally.AddBy(now, e, "a", "five") {
		t.Error("it takes three within ten minutes")
	}
}

func TestTallyForgetsWhatIsOutOfDate(t *testing.T) {
	t.Parallel()
	var tally Tally
	e := &Effect{Rule: "r", Kind: Slow, After: 2, Within: time.Minute}
	for i := range 3 * tallyMost {
		tally.Add(born.Add(time.Duration(i)*time.Second), e, time.Duration(i).String())
	}
	if n := len(tally.matches); n > tallyMost {
		t.Errorf("%d places are remembered", n)
	}
}

// TestTallyIsBounded has effects that last for days at more places than are remembered, and
// rules that want very many matches first.
func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	var tally Tally
	days := &Effect{Rule: "days", Kind: Slow, For: 7 * 24 * time.Hour}
	for i := range 3 * tallyMost {
		if !tally.Add(born, days, fmt.Sprint(i)) {
			t.Fatalf("at place %d nothing takes hold", i)
		}
		if n := len(tally.lasting); n > tallyMost {
			t.Fatalf("%d effects in force are remembered", n)
		}
	}
	many := &Effect{Rule: "many", Kind: Slow, After: 1_000_000, Within: 7 * 24 * time.Hour}
	for i := range 5 * tallyMost {
		tally.Add(born, many, fmt.Sprint(i%3))
		n := 0
		for _, list := range tally.matches {
			n += len(list)
		}
		if n > matchesMost || n != tally.n {
			t.Fatalf("%d matches are remembered, %d counted", n, tally.n)
		}
	}
}

// Whoever puts an address on a list chooses what a reply repeats of it, and slows no site
// down by that, nor keeps his bounce from being one.
func TestAddressThatAReplyRepeatsMatchesNoRule(t *testing.T) {
	t.Parallel()
	rule := Rule{Text: regexp.MustCompile("(?i)VS98-IP0|RL00000[1-9]"), Class: ClassRateLimited, Effect: Effect{Rule: "r", Kind: Suspend}}
	for _, x := range []struct {
		to, text string
		matches  bool
	}{
		{"VS98-IP0@far.test", "<VS98-IP0@far.test>: User unknown", false},
		{"rl000001@far.test", "No such user (RL000001@FAR.TEST).", false},
		{"rl000001@far.test", "Mailbox 'RL000001' does not exist", false},
		{"rl000001@far.test", "VS98-IP0 deferred <rl000001@far.test>", true},
		{"ip0@far.test", "VS98-IP0 deferred", true},
		{"a@far.test", "VS98-IP0 deferred", true},
		{"", "VS98-IP0 deferred", true},
	} {
		d := about(rule).Decide(born, Attempt{Stage: Rcpt, Code: 550, Text: x.text, To: x.to, Born: born})
		if matches := d.Effect != nil; matches != x.matches || matches == (d.Action == Bounce) {
			t.Errorf("%q to %q: matches %v, action %v", x.text, x.to, matches, d.Action)
		}
	}
	// Nor is it a throttle in our own reading.
	d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 550, Text: "throttle@far.test: user unknown", To: "throttle@far.test", Born: born})
	if d.Class != ClassUserUnknown || d.Action != Bounce {
		t.Errorf("class %v, action %v", d.Class, d.Action)
	}
}
