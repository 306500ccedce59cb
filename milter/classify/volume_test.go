package classify

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/config"
)

// TestVolumeNeverCountsWhatIsOlder compares with a list of all that was added:
// no more than the window held, no less than nine tenths of it held.
func TestVolumeNeverCountsWhatIsOlder(t *testing.T) {
	t.Parallel()
	const window = 10 * time.Minute
	rnd := rand.New(rand.NewPCG(1, 2))
	v := NewVolume()
	type event struct {
		at time.Time
		n  int
	}
	var all []event
	within := func(now time.Time, d time.Duration) int {
		sum := 0
		for _, e := range all {
			if now.Sub(e.at) < d {
				sum += e.n
			}
		}
		return sum
	}
	now := start
	for range 5000 {
		step := time.Duration(rnd.Int64N(int64(10 * time.Second)))
		if rnd.IntN(50) == 0 {
			step *= 100
		}
		now = now.Add(step)
		e := event{now, 1 + rnd.IntN(5)}
		all = append(all, e)
		got := v.add("k", e.n, now, window)
		if most, least := within(now, window), within(now, window*9/10); got > most || got < least {
			t.Fatalf("at %v: %d, the window held %d, nine tenths of it %d", now, got, most, least)
		}
	}
}

func TestVolumeSurvivesOddClocks(t *testing.T) {
	t.Parallel()
	v := NewVolume()
	for _, at := range []time.Time{start, start.Add(-time.Second), start.Add(time.Second)} {
		v.add("k", 1, at, 10*time.Minute)
	}
	if got := v.add("k", 1, start, 10*time.Minute); got != 4 {
		t.Errorf("a little out of order: %d, want 4", got)
	}
	if got := v.add("k", 1, start.Add(-time.Hour), 10*time.Minute); got != 1 {
		t.Errorf("clock set back: %d, want 1", got)
	}
	if got := v.add("k", 1, start, time.Hour); got != 1 {
		t.Errorf("another window: %d, want 1", got)
	}
	for _, at := range []time.Time{{}, time.Unix(-1<<40, 0), time.Unix(1<<40, 0)} {
		if got := v.add("far", 1, at, time.Second); got != 1 {
			t.Errorf("%v: %d, want 1", at, got)
		}
	}
}

func TestVolumeForgetsTheOldestKey(t *testing.T) {
	t.Parallel()
	v := NewVolume()
	v.add("first", 1, start, time.Minute)
	v.add("second", 1, start, time.Minute)
	for i := range maxTallies - 2 {
		v.add(fmt.Sprint(i), 1, start, time.Minute)
	}
	v.add("first", 1, start, time.Minute) // second is the oldest now
	v.add("one more", 1, start, time.Minute)
	if len(v.tallies.byKey) != maxTallies || v.tallies.order.Len() != maxTallies {
		t.Fatalf("%d tallies, %d in order", len(v.tallies.byKey), v.tallies.order.Len())
	}
	if got := v.add("first", 1, start, time.Minute); got != 3 {
		t.Errorf("first: %d, want 3", got)
	}
	if got := v.add("second", 1, start, time.Minute); got != 1 {
		t.Errorf("second: %d, want 1", got)
	}
}

// oneSign is a message that only its volume can make bulk.
func oneSign(sender string, recipients int) *Message {
	m := newsletter()
	m.Sender, m.Header, m.Arrived = sender, fields("List-Unsubscribe: <x>"), start
	m.Recipients = nil
	for i := range recipients {
		m.Recipients = append(m.Recipients, remote(fmt.Sprintf("r%d@gmail.com", i)))
	}
	return m
}

func TestVolumeOutlivesAReload(t *testing.T) {
	t.Parallel()
	v := NewVolume()
	cfg := base()
	for i, want := range []bool{false, false, true} {
		c, err := New(cfg, v)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Decide(oneSign("news@example.com", 200)); (got.Divert != nil) != want {
			t.Errorf("message %d: %+v", i, got)
		}
		cfg.Rules = append(cfg.Rules, config.Rule{Name: "no", Action: config.ActionDivert, Sender: []string{"no@*"}})
	}
}

func TestVolumeCountsOnlyWhatHangsInTheBalance(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Rules = []config.Rule{{Name: "mine", Action: config.ActionLeave, HeaderExists: []string{"X-Mine"}}}
	for name, change := range map[string]func(*Message){
		"two signs":     func(m *Message) { m.Header = listFields },
		"no sign":       func(m *Message) { m.Header = fields("Subject: x") },
		"urgent":        func(m *Message) { m.Header = append(fields("X-Priority: 1"), m.Header...) },
		"a rule's":      func(m *Message) { m.Header = append(fields("X-Mine: 1"), m.Header...) },
		"out of scope":  func(m *Message) { m.AuthUser = "" },
		"not remote":    func(m *Message) { m.Recipients = []Recipient{{Address: "a@b.example", Mailer: "local"}} },
		"other senders": func(m *Message) { m.Sender = "other@example.com" },
		"an hour ago":   func(m *Message) { m.Arrived = start.Add(-time.Hour) },
	} {
		c := mustNew(t, cfg)
		for range 10 {
			m := oneSign("news@example.com", 400)
			change(m)
			c.Decide(m)
		}
		if got := c.Decide(oneSign("news@example.com", 400)); got.Divert != nil {
			t.Errorf("%s was counted: %+v", name, got)
		}
	}
	cfg.BulkRecipients = 0
	if got := mustNew(t, cfg).Decide(oneSign("news@example.com", 10000)); got.Divert != nil {
		t.Errorf("turned off: %+v", got)
	}
	if got := mustNew(t, base()).Decide(oneSign("news@example.com", 501)); got.Divert == nil {
		t.Errorf("one message to more than the limit: %+v", got)
	}
}

func TestVolumeServesManyGoroutines(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 60 {
				c.Decide(oneSign("news@example.com", 1))
			}
		})
	}
	wg.Wait()
	if got := c.Decide(oneSign("news@example.com", 21)); got.Divert == nil {
		t.Errorf("480 and 21 recipients: %+v", got)
	}
}

func TestSenderKeyLeavesOutWhatVaries(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"News@Example.com": "news@example.com",
		"dev-bounces+ann=gmail.com@lists.example.net":           "dev-bounces+*@lists.example.net",
		"talk-return-17-ann=gmail.com@lists.example.net":        "talk-*@lists.example.net",
		"bounce+jean==a==orange.fr==physics@listes.example.net": "bounce+*@listes.example.net",
		"b-ann=gmail.com@example.com":                           "b-*@example.com",
		"ann=gmail.com@example.com":                             "*@example.com",
		"prvs=1234abcdef=Joe@example.com":                       "joe@example.com",
		"PRVS=1=x+y@example.com":                                "x+*@example.com",
		"bounce-12345-67@news.example":                          "bounce-*@news.example",
		"20260302news1234@news.example":                         "*@news.example",
		"":                                                      "",
		"root":                                                  "root",
		"a@b@c":                                                 "a@b@c",
		"x\x00\"y@b\r\n.example":                                "x__y@b__.example",
		strings.Repeat("a", 300) + "@example.com":               "*@example.com",
		"joe+" + strings.Repeat("9", 300) + "@example.com":      "joe+*@example.com",
		"srs0=hhh=tt=example.org=ann@forward.example":           "srs0=*@forward.example",
		"team-123@example.com":                                  "team-123@example.com",
		"ann=gmail.com=news@bounce.example":                     "*@bounce.example",
		"ann=gmail.com+news@bounce.example":                     "*+*@bounce.example",
		"msprvs1=19667q5GQNgcv=bounces-259384@mail.example":     "msprvs1=*@mail.example",
		"2.20290.44-t9bsgc0tYwDu.1.b@news.example":              "*.b@news.example",
		"b.7.1234.a1b2c3d4e5f60718@ngo.example":                 "b.*@ngo.example",
		"1axccr3k4tsukj04fcuooj221ji2i4@bf1.example":            "*@bf1.example",
		"bounce_dpd.mma1234567890u2ln2dv2ca5unq@s.example":      "bounce_dpd.*@s.example",
		"anne-marie.o_neill99@example.com":                      "anne-marie.o_neill99@example.com",
		"-..-@example.com":                                      "-..-@example.com",

		"bounces_123456_x-ann=web.de@very-long-name.news.example": "bounces_*_x-*@very-long-name.news.example",
	} {
		if got := SenderKey(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestVolumeOfOneUserIsNoneOfAnothers has an account send much under the sender and the
// subject of somebody else, whose mail has one mark of bulk.
func TestVolumeOfOneUserIsNoneOfAnothers(t *testing.T) {
	t.Parallel()
	cfg := shipped(t)
	c := mustNew(t, cfg)
	send := func(user string, i int) bool {
		m := Message{
			Sender: "noreply@shop.example", AuthUser: user, Client: netip.MustParseAddr("192.0.2.7"),
			Recipients: []Recipient{remote(fmt.Sprintf("reader%d@example.net", i))},
			Header:     []Field{{"Subject", " Reset your password"}, {"List-Unsubscribe", " <https://shop.example/u>"}},
			Arrived:    start,
		}
		return c.Decide(&m).Divert != nil
	}
	for i := range 2000 {
		send("mallory", i)
	}
	if !send("mallory", 2000) {
		t.Error("the volume of an account is not counted")
	}
	if send("shop", 2001) {
		t.Error("a password reset is bulk as another account has sent much under its name")
	}
}
