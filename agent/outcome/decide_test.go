package outcome

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/millrace/millrace/agent/elastic"
)

func TestOnlyARemoteWordOrAgeBounces(t *testing.T) {
	t.Parallel()
	for fault, want := range map[Fault]struct {
		action   Action
		class    Class
		enhanced string
		sig      elastic.Kind
	}{
		NXDomain:       {Bounce, ClassHostUnknown, "5.1.2", elastic.Failed},
		NullMX:         {Bounce, ClassHostUnknown, "5.1.10", elastic.Failed},
		Oversize:       {Bounce, ClassTooBig, "5.3.4", elastic.Accepted},
		DNSFailed:      {Retry, ClassNetwork, "4.4.3", elastic.Failed},
		Unreachable:    {Retry, ClassNetwork, "4.4.1", elastic.Failed},
		LostConnection: {Retry, ClassNetwork, "4.4.2", elastic.Lost},
		InDoubt:        {Retry, ClassNetwork, "4.4.2", elastic.Lost},
		TLSFailed:      {Retry, ClassTLS, "4.7.5", elastic.Failed},
		NoFault:        {Retry, ClassSystem, "4.3.0", elastic.Accepted},
		NoAddress:      {HandBack, ClassNetwork, "5.4.4", elastic.Failed},
		Loop:           {HandBack, ClassNetwork, "5.4.6", elastic.Failed},
		RefusedAddress: {HandBack, ClassPolicy, "5.7.0", elastic.Failed},
		NeedsExtension: {HandBack, ClassProtocol, "5.6.3", elastic.Accepted},
		Rejected:       {Bounce, ClassPolicy, "5.7.1", elastic.Accepted},
		Unreadable:     {Damage, ClassSystem, "5.3.0", elastic.Accepted},
	} {
		d := policy().Decide(born, Attempt{Stage: Mail, Fault: fault, Born: born})
		if d.Action != want.action || d.Class != want.class || d.Enhanced != want.enhanced || d.Signal != want.sig {
			t.Errorf("%v: %v %v %s %v", fault, d.Action, d.Class, d.Enhanced, d.Signal)
		}
		if d.Reason == "" {
			t.Errorf("%v: no reason", fault)
		}
		if (d.Action == Retry) != !d.Due.IsZero() {
			t.Errorf("%v: due %v for action %v", fault, d.Due, d.Action)
		}
	}
}

func TestRefusalToTalkIsNoBounceUntilExpiry(t *testing.T) {
	t.Parallel()
	a := Attempt{Stage: Connect, Code: 554, Enhanced: "5.7.1", Text: "go away", Peer: "mx1.example[192.0.2.1]", Born: born}
	d := policy().Decide(born.Add(119*time.Hour), a)
	if d.Action != Retry || d.Enhanced != "4.7.1" {
		t.Errorf("action %v, status %s", d.Action, d.Enhanced)
	}
	d = policy().Decide(born.Add(120*time.Hour), a)
	want := "message expired after 5d in the queue: host mx1.example[192.0.2.1] refused to talk to me: 554 5.7.1 go away"
	if d.Action != Bounce || d.Class != ClassExpired || d.Enhanced != "4.4.7" || d.Reason != want {
		t.Errorf("action %v, class %v, status %s, reason %q", d.Action, d.Class, d.Enhanced, d.Reason)
	}
}

// A certificate may have thousands of names, and any character in them.
func TestReasonIsPrintableAndBounded(t *testing.T) {
	t.Parallel()
	for _, a := range []Attempt{
		{Stage: TLS, Fault: TLSFailed, Text: "certificate is valid for a\x1b[2J\u009b\u202e\n, " + strings.Repeat("name.example, ", 5000), Peer: "mx1.example[192.0.2.1]"},
		{Stage: Rcpt, Code: 550, Text: "\x9b2J\u2028" + strings.Repeat("x", 60_000)},
	} {
		got := policy().Decide(born, a).Reason
		if len(got) > 1200 || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%d octets: %.200q", len(got), got)
		}
	}
}

func TestReasonIsOneLineAsPostfixWritesIt(t *testing.T) {
	t.Parallel()
	const peer = "mx1.example[192.0.2.1]"
	for want, a := range map[string]Attempt{
		"host mx1.example[192.0.2.1] said: 550 5.1.1 User unknown (in reply to RCPT TO command)":   {Stage: Rcpt, Code: 550, Enhanced: "5.1.1", Text: "User unknown", Peer: peer},
		"host mx1.example[192.0.2.1] said: 451 later (in reply to MAIL FROM command)":              {Stage: Mail, Code: 451, Text: "later", Peer: peer},
		"host mx1.example[192.0.2.1] said: 554 5.6.0 two  lines (in reply to end of DATA command)": {Stage: Data, Code: 554, Enhanced: "5.6.0", Text: "two\r\nlines", Peer: peer},
		"host mx1.example[192.0.2.1] said: 554 5.5.1 no (in reply to DATA command)":                {Stage: Data, BeforeContent: true, Code: 554, Enhanced: "5.5.1", Text: "no", Peer: peer},
		"host mx1.example[192.0.2.1] said: 454 4.7.0 no (in reply to STARTTLS command)":            {Stage: TLS, Code: 454, Enhanced: "4.7.0", Text: "no", Peer: peer},
		"host mx1.example[192.0.2.1] refused to talk to me: 421 busy":                              {Stage: Connect, Code: 421, Text: "busy", Peer: peer},
		"250 2.0.0 Ok: queued as 1":                                                           {Stage: Data, Code: 250, Enhanced: "2.0.0", Text: "Ok: queued as 1", Peer: peer},
		"connect to mx1.example[192.0.2.1]:25: connection refused":                            {Stage: Connect, Fault: Unreachable, Text: "connect to mx1.example[192.0.2.1]:25: connection refused", Peer: peer},
		"mx1.example[192.0.2.1]: the connection was lost before the message was acknowledged": {Stage: Data, Fault: InDoubt, Peer: peer},
		"the domain does not exist":                                                           {Stage: Route, Fault: NXDomain},
		"host said: 550 no (in reply to RCPT TO command)":                                     {Stage: Rcpt, Code: 550, Text: "no"},
	} {
		if got := policy().Decide(born, a).Reason; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestStatusAgreesWithTheReply(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		code           int
		enhanced, want string
	}{
		{550, "5.1.1", "5.1.1"}, {550, "", "5.0.0"}, {450, "", "4.0.0"}, {250, "", "2.0.0"},
		{550, "4.1.1", "5.0.0"}, {450, "5.1.1", "4.0.0"}, {550, "nonsense", "5.0.0"}, {550, "5.x.y", "5.0.0"},
	} {
		if d := policy().Decide(born, Attempt{Stage: Rcpt, Code: x.code, Enhanced: x.enhanced, Born: born}); d.Enhanced != x.want {
			t.Errorf("%d %q: status %s, want %s", x.code, x.enhanced, d.Enhanced, x.want)
		}
	}
}

func TestHostMTANeverMakesABounce(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	for range 20_000 {
		a := Attempt{Stage: Stage(r.IntN(7)), Fault: Fault(r.IntN(14)), Tries: r.IntN(40), Born: born, ToHost: true, Report: r.IntN(2) == 0}
		if r.IntN(2) == 0 {
			x := replies[r.IntN(len(replies))]
			a.Code, a.Enhanced, a.Text = x.code, x.enhanced, x.text
		}
		now := born.Add(time.Duration(r.Int64N(int64(10 * 24 * time.Hour))))
		d := policy().Decide(now, a)
		switch d.Action {
		case Deliver, Damage:
		case Retry, Stuck:
			if wait := d.Due.Sub(now); wait <= 0 || wait > time.Hour {
				t.Fatalf("%+v: due after %v", a, wait)
			}
		default:
			t.Fatalf("%+v: action %v", a, d.Action)
		}
	}
}

func TestHostMTARefusalIsStuck(t *testing.T) {
	t.Parallel()
	p := policy()
	for _, x := range []struct {
		a    Attempt
		age  time.Duration
		want Action
		due  time.Duration
	}{
		{Attempt{Stage: Data, Code: 250}, 0, Deliver, 0},
		{Attempt{Stage: Connect, Fault: Unreachable}, 0, Retry, 10 * time.Second},
		{Attempt{Stage: Mail, Code: 452, Enhanced: "4.3.1", Tries: 2}, 0, Retry, time.Minute},
		{Attempt{Stage: Mail, Code: 452, Enhanced: "4.3.1", Tries: 5}, 0, Retry, 15 * time.Minute},
		{Attempt{Stage: Mail, Code: 452, Enhanced: "4.3.1", Tries: 100}, 0, Retry, time.Hour},
		{Attempt{Stage: Rcpt, Code: 550, Enhanced: "5.1.1"}, 0, Stuck, time.Hour},
		{Attempt{Stage: Mail, Fault: Oversize}, 0, Stuck, time.Hour},
		{Attempt{Stage: Connect, Fault: Unreachable, Report: true}, 6 * 24 * time.Hour, Stuck, time.Hour},
	} {
		x.a.ToHost, x.a.Born = true, born
		now := born.Add(x.age)
		d := p.Decide(now, x.a)
		if d.Action != x.want || x.due != 0 && d.Due.Sub(now) != x.due {
			t.Errorf("%+v: action %v, due after %v", x.a, d.Action, d.Due.Sub(now))
		}
	}
}

// Retries grow monotone, the last is at expiry, and then it ends.
func TestRetryTimes(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(2, 2))
	for range 300 {
		var p Policy
		for step := time.Duration(60 + r.IntN(600)); len(p.Retry) < r.IntN(8); step += time.Duration(r.IntN(3600)) {
			p.Retry = append(p.Retry, step*time.Second)
		}
		p.Expire = time.Duration(1+r.IntN(7*86400)) * time.Second
		now, end := born, born.Add(p.Expire)
		var last, wait time.Duration
		for tries := 0; ; tries++ {
			d := p.Decide(now, Attempt{Stage: Rcpt, Code: 451, Tries: tries, Born: born})
			if d.Action == Bounce {
				if !now.Equal(end) || d.Class != ClassExpired {
					t.Fatalf("%+v: %v after %v", p, d.Class, now.Sub(born))
				}
				break
			}
			if d.Action != Retry || !d.Due.After(now) || d.Due.After(end) {
				t.Fatalf("%+v: action %v, due %v after birth, at %v", p, d.Action, d.Due.Sub(born), now.Sub(born))
			}
			if wait = d.Due.Sub(now); wait < last && !d.Due.Equal(end) {
				t.Fatalf("%+v: waits %v after %v", p, wait, last)
			}
			if d.Due != end && wait != p.wait(tries) {
				t.Fatalf("%+v: try %d waits %v", p, tries, wait)
			}
			last, now = wait, d.Due
		}
	}
}

func TestWithoutBirthOrLimitNothingExpires(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		p Policy
		a Attempt
	}{
		{policy(), Attempt{Fault: Unreachable}},
		{Policy{}, Attempt{Fault: Unreachable, Born: born}},
	} {
		now := born.Add(1000 * time.Hour)
		if d := x.p.Decide(now, x.a); d.Action != Retry || !d.Due.After(now) {
			t.Errorf("%+v: action %v, due %v", x.a, d.Action, d.Due)
		}
	}
}

func TestClassesAreNamedAndFewAreHard(t *testing.T) {
	t.Parallel()
	seen := map[string]Class{}
	for c := ClassNone; c < Classes; c++ {
		s := c.String()
		if other, ok := seen[s]; ok || s == "" || strings.ToLower(s) != s {
			t.Errorf("class %d is called %q, as %d", c, s, other)
		}
		seen[s] = c
		if hard := s == "userunknown" || s == "hostunknown" || s == "hasmoved"; c.Hard() != hard {
			t.Errorf("%v: hard is %v", c, c.Hard())
		}
	}
	// The numbers are in journals.
	for name, n := range map[string]Class{"userunknown": 1, "ratelimited": 5, "network": 10, "expired": 15, "undefined": 20} {
		if seen[name] != n {
			t.Errorf("%s is %d, want %d", name, seen[name], n)
		}
	}
}

func FuzzDecide(f *testing.F) {
	for _, x := range replies[:8] {
		f.Add(uint8(x.stage), x.code, x.enhanced, x.text)
	}
	f.Fuzz(func(t *testing.T, stage uint8, code int, enhanced, text string) {
		d := policy().Decide(born, Attempt{Stage: Stage(stage % 7), Code: code, Enhanced: enhanced, Text: text, Born: born})
		if d.Action == Bounce && code/100 != 5 {
			t.Errorf("%d bounces", code)
		}
		if strings.ContainsAny(d.Reason, "\r\n\x00") {
			t.Errorf("reason %q", d.Reason)
		}
		if _, _, ok := split(d.Enhanced); !ok {
			t.Errorf("status %q", d.Enhanced)
		}
	})
}

// A wait of 300 s, also one that an early try begins anew, is over at the second try: 17
// minutes it took with 2 and 15.
func TestGreylistedMailIsTriedAgainWhenItMayPass(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"Greylisted": greylistWait, "Greylisted, see http://postgrey.example/help/far.test.html": greylistWait,
		"Greylisted, please try again in 300 seconds": 5 * time.Minute, "greylisted for 7 minutes": 7 * time.Minute,
		"Greylisting in effect, come back in 00:04:37": 4*time.Minute + 37*time.Second,
		"Greylisted, come back in 5 seconds":           time.Minute, "greylisted: 26 hours": time.Hour,
	} {
		a := Attempt{Stage: Rcpt, Code: 450, Enhanced: "4.2.0", Text: text, Born: born}
		for a.Tries = range greylistTries {
			if d := policy().Decide(born, a); d.Due.Sub(born) != want {
				t.Errorf("%s, try %d: next after %v, want %v", text, a.Tries, d.Due.Sub(born), want)
			}
			a.Jitter = 0.999
			if d := policy().Decide(born, a); d.Due.Sub(born) <= want {
				t.Errorf("%s: luck makes it %v, less than %v", text, d.Due.Sub(born), want)
			}
			a.Jitter = 0
		}
		if a.Tries = 12; policy().Decide(born, a).Due.Sub(born) < policy().wait(8) {
			t.Errorf("%s: still so soon after %d tries", text, a.Tries)
		}
	}
}

// What a server says in place of a reply is read by its words, and never ends a message.
func TestWhatIsNoReplyIsReadByItsWords(t *testing.T) {
	t.Parallel()
	p := policy()
	p.Rules = append(p.Rules, Rule{Name: "ours", Text: regexp.MustCompile("list of shame"), Class: ClassReputation, Effect: Effect{Kind: Suspend, For: time.Hour}})
	for text, want := range map[string]struct {
		class Class
		sig   elastic.Kind
	}{
		"too many connections from your address": {ClassConnections, elastic.Refused},
		"you are on our list of shame":           {ClassReputation, elastic.Failed},
		"SSH-2.0-OpenSSH_9.2":                    {ClassSystem, elastic.Failed},
	} {
		d := p.Decide(born, Attempt{Stage: Connect, Fault: Garbled, Text: text, Peer: "mx1.example[192.0.2.1]", Born: born})
		if d.Action != Retry || d.Class != want.class || d.Signal != want.sig || !strings.Contains(d.Reason, text) {
			t.Errorf("%s: %+v", text, d)
		}
		if (d.Effect != nil) != (want.class == ClassReputation) {
			t.Errorf("%s: effect %+v", text, d.Effect)
		}
	}
}

func TestLuckPutsARetryOffByATenthAtMost(t *testing.T) {
	t.Parallel()
	a := Attempt{Stage: Rcpt, Code: 451, Born: born, Tries: 1}
	for luck, want := range map[float64]time.Duration{0: 15 * time.Minute, 0.5: 15*time.Minute + 45*time.Second} {
		a.Jitter = luck
		if d := policy().Decide(born, a); d.Due.Sub(born) != want {
			t.Errorf("luck %v: after %v, want %v", luck, d.Due.Sub(born), want)
		}
	}
}

// Five days of 4xx, on a clock of its own: the default schedule, to the bounce.
func TestFiveDaysOfDeferrals(t *testing.T) {
	t.Parallel()
	p := Policy{
		Retry:  []time.Duration{5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour},
		Expire: 120 * time.Hour,
	}
	born := time.Unix(1_800_000_000, 0)
	at := Attempt{Stage: Rcpt, Code: 451, Enhanced: "4.7.1", Text: "Greylisted", Peer: "mx.example[192.0.2.1]", Born: born, Jitter: 0.5}
	now := born
	for ; ; at.Tries++ {
		d := p.Decide(now, at)
		if d.Action == Bounce {
			if d.Class != ClassExpired || d.Class.Hard() || d.Enhanced != "4.4.7" || !strings.Contains(d.Reason, "expired after 5d") || !strings.Contains(d.Reason, "451 4.7.1 Greylisted") {
				t.Errorf("%+v", d)
			}
			break
		}
		if d.Action != Retry || !d.Due.After(now) || d.Due.After(born.Add(p.Expire)) {
			t.Fatalf("try %d after %s: %+v", at.Tries, now.Sub(born), d)
		}
		now = d.Due
	}
	if now != born.Add(p.Expire) || at.Tries < 30 || at.Tries > 40 {
		t.Errorf("returned after %s and %d tries", now.Sub(born), at.Tries)
	}
}

func TestDeferredMailGoesBackToTheHost(t *testing.T) {
	t.Parallel()
	p := policy()
	p.HandbackAfter = time.Hour
	a := Attempt{Stage: Rcpt, Code: 451, Text: "later", Born: born, Tries: 9}
	if d := p.Decide(born.Add(59*time.Minute), a); d.Action != Retry || !d.Due.Equal(born.Add(time.Hour)) {
		t.Errorf("before: %v at %v, want a last try at the time of return", d.Action, d.Due)
	}
	d := p.Decide(born.Add(time.Hour), a)
	if d.Action != HandBack || !strings.HasPrefix(d.Reason, "deferred for 1h0m0s: ") || !strings.Contains(d.Reason, "451 later") {
		t.Errorf("then: %+v", d)
	}
	a.Stage, a.Code, a.Fault = Connect, 0, Unreachable
	if d := p.Decide(born.Add(2*time.Hour), a); d.Action != HandBack {
		t.Errorf("unreachable: %+v", d)
	}
	// Only what may pass; and what is expired is.
	a = Attempt{Stage: Rcpt, Code: 550, Born: born}
	if d := p.Decide(born.Add(2*time.Hour), a); d.Action != Bounce {
		t.Errorf("refused: %+v", d)
	}
	a.Code = 451
	if d := p.Decide(born.Add(p.Expire), a); d.Action != Bounce || d.Class != ClassExpired {
		t.Errorf("expired: %+v", d)
	}
	// The host is the end of the way: nothing goes back from there.
	a.ToHost = true
	if d := p.Decide(born.Add(2*time.Hour), a); d.Action != Retry {
		t.Errorf("at the host: %+v", d)
	}
}
