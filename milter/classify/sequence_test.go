package classify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sent is a sequence of messages with one mark of bulk; subject makes the i-th one's.
type sent struct {
	sender  func(i int) string
	subject func(i int) string
	n       int
	within  time.Duration
}

// always is what does not vary.
func always(s string) func(int) string { return func(int) string { return s } }

// judge has a classifier judge sequences that run at the same time, and returns for each
// how many messages were diverted.
func judge(c *Classifier, all ...sent) []int {
	type event struct{ at, sequence, i int }
	var events []event
	for k, s := range all {
		for i := range s.n {
			events = append(events, event{int(s.within) / s.n * i, k, i})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at - b.at })
	diverted := make([]int, len(all))
	for _, e := range events {
		s := all[e.sequence]
		name := fmt.Sprintf("%c%c", 'a'+e.i%26, 'a'+e.i/26%26)
		m := Message{
			Sender: s.sender(e.i), AuthUser: "app", Arrived: start.Add(time.Duration(e.at)),
			Recipients: []Recipient{remote(fmt.Sprintf("%s.doe%d@example.net", name, e.i))},
			Header: fields("List-Unsubscribe: <https://shop.example/u>", "From: Shop <shop@shop.example>",
				fmt.Sprintf("To: \"Jo%s Doe\" <%s.doe%d@example.net>", name, name, e.i), "Subject: "+s.subject(e.i)),
		}
		if c.Decide(&m).Divert != nil {
			diverted[e.sequence]++
		}
	}
	return diverted
}

// TestSequences has the table of what volume does with mail that has one mark of bulk.
func TestSequences(t *testing.T) {
	t.Parallel()
	verp := func(i int) string { return fmt.Sprintf("news+r%d=example.net@shop.example", i) }
	own := always("shop@shop.example")
	order := func(i int) string { return fmt.Sprintf("Order %d confirmed", 10_000+i) }
	code := func(i int) string { return fmt.Sprintf("%06d is your code", i*7919%1_000_000) }
	personal := func(i int) string {
		return fmt.Sprintf("Jo%c%c, spring is here", 'a'+i%26, 'a'+i/26%26)
	}
	encoded := func(i int) string {
		return fmt.Sprintf("=?utf-8?q?Jo%c%c,_Fr=C3=BChling?=", 'a'+i%26, 'a'+i/26%26)
	}
	const m = time.Minute
	for _, x := range []struct {
		what string
		all  []sent
		want []int // diverted
	}{
		{"2,000 in 1 minute", []sent{{verp, always("News"), 2000, m}}, []int{1500}},
		{"2,000 in 10 minutes", []sent{{verp, always("News"), 2000, 10 * m}}, []int{1500}},
		{"2,000 in 30 minutes", []sent{{verp, always("News"), 2000, 30 * m}}, []int{1500}},
		{"2,000 in 60 minutes", []sent{{verp, always("News"), 2000, 60 * m}}, []int{1500}},
		{"2,000 in 30 minutes, by name", []sent{{verp, personal, 2000, 30 * m}}, []int{1500}},
		{"2,000 in 30 minutes, by name, encoded", []sent{{verp, encoded, 2000, 30 * m}}, []int{1500}},
		{"its transactional mail during a blast", []sent{
			{own, always("News"), 2000, 10 * m}, {own, always("Reset your password"), 100, 10 * m}, {own, order, 300, 10 * m},
		}, []int{1500, 0, 0}},
		{"storm of codes", []sent{{own, code, 3000, 10 * m}}, []int{0}},
		{"storm of order mail", []sent{{own, order, 3000, 10 * m}}, []int{0}},
		{"storm of all, 500 with one subject", []sent{
			{own, always("Reset your password"), 500, 10 * m}, {own, code, 2000, 10 * m}, {own, order, 2000, 10 * m},
		}, []int{0, 0, 0}},
		{"a day of 400 an hour with one subject", []sent{{own, always("Your parcel is on its way"), 9600, 24 * time.Hour}}, []int{0}},
	} {
		cfg := shipped(t)
		cfg.BulkWindow = time.Hour // as millrace.toml of a new installation
		got := judge(mustNew(t, cfg), x.all...)
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: diverted %v, want %v", x.what, got, x.want)
		}
		t.Logf("%-40s diverted %v", x.what, got)
	}
}

func TestSubjectKeyLeavesOutWhatIsTheRecipients(t *testing.T) {
	t.Parallel()
	m := Message{Recipients: []Recipient{remote("ann.example@gmail.com")}}
	key := func(subject string) string {
		return subjectKey(&m, index(fields("To: \"Mary Ann =?utf-8?q?M=C3=BCller?=\" <ann.example@gmail.com>", "Subject: "+subject)))
	}
	for _, same := range [][2]string{
		{"Mary Ann, spring is here", "ann.example: spring is here!"},
		{"News for Mary", "news  FOR =?utf-8?q?M=C3=BCller?="},
		{"Jahr 2026", "jahr 2026"},
		{"", " "},
	} {
		if a, b := key(same[0]), key(same[1]); a != b {
			t.Errorf("%q and %q: %q, %q", same[0], same[1], a, b)
		}
	}
	for _, other := range [][2]string{
		{"Order 1", "Order 2"}, {"Mary, news", "Joan, news"}, {"News", "News for you"}, {"", "x"},
	} {
		if a, b := key(other[0]), key(other[1]); a == b {
			t.Errorf("%q and %q are both %q", other[0], other[1], a)
		}
	}
	if got := key(strings.Repeat("ä ", 5000)); len(got) > 2*maxSubject {
		t.Errorf("%d octets", len(got))
	}
	if got := key("=?utf-8?q?" + strings.Repeat("=C3=BC", 5000) + "?="); len(got) > 2*maxSubject {
		t.Errorf("%d octets of an encoded word", len(got))
	}
}

// TestGeneratedMailThatCanBeLeftIsBulkByVolume sends what a program has written by itself:
// a forum's summary, alerts that nobody can unsubscribe from, and notices of their own
// subjects.
func TestGeneratedMailThatCanBeLeftIsBulkByVolume(t *testing.T) {
	t.Parallel()
	const leave, generated = "List-Unsubscribe: <https://forum.example/u>", "Auto-Submitted: auto-generated"
	for _, x := range []struct {
		what    string
		subject func(i int) string
		header  []string
		want    int
	}{
		{"summary", always("Summary"), []string{generated, leave, "X-Auto-Response-Suppress: All"}, 1500},
		{"alert", always("Disk is full"), []string{generated, "Precedence: bulk"}, 0},
		{"notices", func(i int) string { return fmt.Sprintf("Ticket %d is solved", i) }, []string{generated, leave}, 0},
		{"resets", always("Reset your password"), []string{generated, "X-Auto-Response-Suppress: All"}, 0},
	} {
		c, n := mustNew(t, shipped(t)), 0
		for i := range 2000 {
			m := Message{
				Sender: "noreply@forum.example", AuthUser: "app", Arrived: start.Add(time.Duration(i) * 10 * time.Minute / 2000),
				Recipients: []Recipient{remote(fmt.Sprintf("r%d@example.net", i))},
				Header:     fields(append(x.header, "Subject: "+x.subject(i))...),
			}
			d := c.Decide(&m)
			if d.Divert != nil {
				n++
			} else if d.Reason != generated {
				t.Fatalf("%s: stays because of %s", x.what, d.Reason)
			}
		}
		if n != x.want {
			t.Errorf("%s: %d of 2,000 diverted, want %d", x.what, n, x.want)
		}
	}
}
