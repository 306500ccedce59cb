package outcome

import (
	"strings"
	"testing"
	"time"
)

// Reading a reply allocates nothing; what 2xx costs is the decision alone.
func TestReadingAllocatesNothing(t *testing.T) {
	for _, l := range corpus(t) {
		a := l.attempt()
		if n := testing.AllocsPerRun(3, func() { shipped.classify(&a, l.status) }); n > 0 {
			t.Fatalf("line %d: %v allocations", l.at, n)
		}
	}
	a := Attempt{Stage: Data, Code: 250, Enhanced: "2.0.0", Text: strings.Repeat("queued as ", 100), To: "r@far.test"}
	if n := testing.AllocsPerRun(100, func() { read(&a, nil) }); n > 0 {
		t.Errorf("2xx: %v allocations", n)
	}
}

func BenchmarkRead(b *testing.B) {
	list := corpus(b)
	attempts := make([]Attempt, len(list))
	for i := range list {
		attempts[i] = list[i].attempt()
	}
	b.Run("refusal", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			read(&attempts[i%len(attempts)], nil)
		}
	})
	b.Run("longest", func(b *testing.B) {
		a := Attempt{Stage: Rcpt, Code: 550, Text: strings.Repeat("no such thing here ", 60)}
		for b.Loop() {
			read(&a, nil)
		}
	})
	b.Run("2xx", func(b *testing.B) {
		a := Attempt{Stage: Data, Code: 250, Enhanced: "2.0.0", Text: "queued as 4XyZ"}
		for b.Loop() {
			read(&a, nil)
		}
	})
}

func TestWaitThatAReplyNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"Greylisted, please try again in 300 seconds":                      5 * time.Minute,
		"Greylisting in action, please come back in 00:04:37":              4*time.Minute + 37*time.Second,
		"Greylisted for 5 minutes":                                         5 * time.Minute,
		"Too many connections, please wait 10 min":                         10 * time.Minute,
		"try again in 5 seconds":                                           time.Minute, // the least
		"you are blocked for 24 hours":                                     time.Hour,   // the most
		"Bitte in 15 Minuten wieder versuchen":                             15 * time.Minute,
		"Graylisted (300s)":                                                0,
		"too many messages (50 in 60 seconds)":                             0,
		"timeout exceeded after 300 seconds":                               5 * time.Minute,
		"limit of 5 minutes":                                               0,
		"Greylisted, see http://postgrey.example/help/in/300/seconds.html": 0,
	} {
		d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 450, Enhanced: "4.7.1", Text: text, Born: born})
		if d.Wait != want {
			t.Errorf("%q: %v, want %v", text, d.Wait, want)
		}
		if grey := strings.Contains(strings.ToLower(text), "greyl") || strings.Contains(text, "Grayl") || strings.HasPrefix(text, "try again"); d.Greylisted != grey {
			t.Errorf("%q: greylisted is %v", text, d.Greylisted)
		}
	}
	if d := policy().Decide(born, Attempt{Stage: Rcpt, Code: 550, Text: "blocked, wait 10 minutes", Born: born}); d.Wait != 0 {
		t.Errorf("a 5xx asks to wait %v", d.Wait)
	}
}

// What else happened in the transaction tells what a reply is about.
func TestTheTransactionTellsWhatAReplyIsAbout(t *testing.T) {
	t.Parallel()
	many := Attempt{Stage: Rcpt, Code: 452, Enhanced: "4.5.3", Text: "Too many recipients", Born: born}
	if d := policy().Decide(born, many); d.Class != ClassTooManyRecipients {
		t.Errorf("after others: %v", d.Class)
	}
	many.First = true
	if d := policy().Decide(born, many); d.Class != ClassRateLimited {
		t.Errorf("the first: %v", d.Class)
	}
	gone := Attempt{Stage: Data, Code: 554, Text: "This user doesn't have a far.test account", To: "r@far.test", Born: born}
	if d := policy().Decide(born, gone); !d.Hard {
		t.Error("alone: not hard")
	}
	gone.Shared = true
	if d := policy().Decide(born, gone); d.Hard || d.Class != ClassUserUnknown {
		t.Errorf("of several: hard %v, %v", d.Hard, d.Class)
	}
	gone.Text += " (R@far.test)"
	if d := policy().Decide(born, gone); !d.Hard {
		t.Error("of several, by name: not hard")
	}
}

// Words have borders, and what a list's author chose counts for nothing.
func TestWordsHaveBordersAndNamesAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Class{
		"message size exceeds corporate limit": ClassTooBig,
		"Message exceeds separate limit":       ClassTooBig,
		"mailbox spam@far.test is full":        ClassMailboxFull,
		"<blacklist@far.test>: user unknown":   ClassUserUnknown,
		"blacklist: user unknown":              ClassUserUnknown,
		"user unknown, see https://far.test/spam/dkim/greylisted/too-many-connections.html": ClassUserUnknown,
		"unknown.user.spam.example says no such user":                                       ClassUserUnknown,
		"transparent": ClassUndefined,
	} {
		stage := Data
		if d := policy().Decide(born, Attempt{Stage: stage, Code: 550, Text: text, To: "blacklist@far.test", Born: born}); d.Class != want {
			t.Errorf("%q: %v by %s, want %v", text, d.Class, d.Rule, want)
		}
	}
}

func TestUnknownRepliesAreCountedByForm(t *testing.T) {
	t.Parallel()
	var u Unknown
	for i := range 3 {
		u.Add(born.Add(time.Duration(i)*time.Second), "far", "host mx"+string(rune('1'+i))+".far.test[192.0.2."+string(rune('1'+i))+"] said: 550 xyzzy "+strings.Repeat("7", 5+i))
	}
	u.Add(born, "other", "host mx.other.test[192.0.2.9] said: 551 plugh")
	list := u.List()
	if u.Total() != 4 || len(list) != 2 || list[0].Count != 3 || list[0].Site != "far" || !list[0].First.Equal(born) || !list[0].Last.Equal(born.Add(2*time.Second)) {
		t.Errorf("%d, %+v", u.Total(), list)
	}
	for i := range 2 * maxUnknown {
		u.Add(born.Add(time.Hour+time.Duration(i)*time.Second), "x", strings.Repeat("ab ", i%20+1)+strings.Repeat("cd ", i/20+1))
	}
	if n := len(u.List()); n != maxUnknown {
		t.Errorf("%d forms are kept", n)
	}
}
