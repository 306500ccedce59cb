package classify

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// streamsOf judges n messages of a classifier and counts how many each stream got.
func streamsOf(t *testing.T, c *Classifier, n int, message func(i int) *Message) map[string]int {
	t.Helper()
	streams := map[string]int{}
	for i := range n {
		d := c.Decide(message(i))
		if d.Divert == nil {
			t.Fatalf("message %d stays: %s", i, d.Reason)
		}
		streams[d.Stream]++
	}
	return streams
}

func campaign(sender string, header ...string) *Message {
	return &Message{
		Sender: sender, AuthUser: "app", Recipients: []Recipient{remote("ann@gmail.com")},
		Header: fields(append(header, "List-Unsubscribe: <x>", "X-Mailcoach: 1")...),
	}
}

// TestIDsOfRecipientsNameNoStream has 50,000 messages with Google's kind of id, more than
// are remembered, and 3,000 with each other kind.
func TestIDsOfRecipientsNameNoStream(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		message func(i int) *Message
		stream  string
	}{
		"Feedback-ID, the sender to the right": {
			func(i int) *Message {
				return campaign("b@news.example", fmt.Sprintf("Feedback-ID: r%d:7:promo:acme", i))
			}, "acme"},
		"Feedback-ID, varying everywhere": {
			func(i int) *Message {
				return campaign("b@news.example", fmt.Sprintf("Feedback-ID: appointment:acme:%d", 1772443200000+i))
			}, "news.example"},
		"List-Id of a subscriber": {
			func(i int) *Message {
				return campaign("b@esp.example", fmt.Sprintf("List-Id: <u%d.list-id.esp.example>", i))
			}, "esp.example"},
		"List-Id of a subscriber, Feedback-ID of a campaign": {
			func(i int) *Message {
				return campaign("b@esp.example", fmt.Sprintf("List-Id: <u%d.list-id.esp.example>", i), "Feedback-ID: march:7:promo:acme")
			}, "march:7:promo:acme"},
		"VERP in front of the sender": {
			func(i int) *Message {
				return campaign(fmt.Sprintf("r%d=example.net@news.example", i), fmt.Sprintf("Feedback-ID: r%d:acme", i))
			}, "acme"},
	} {
		n := 3000
		if x.stream == "acme" && strings.HasPrefix(name, "Feedback-ID") {
			n = 50_000
		}
		streams := streamsOf(t, mustNew(t, base()), n, x.message)
		if len(streams) > varies || streams[x.stream] < n-varies {
			t.Errorf("%s: %d streams, %d of %q", name, len(streams), streams[x.stream], x.stream)
		}
	}
}

// TestIDsOfListsNameTheirStreams has ids that recur: many lists of one host, with a message
// for each subscriber or for all, and campaigns by their numbers.
func TestIDsOfListsNameTheirStreams(t *testing.T) {
	t.Parallel()
	list := func(i int) *Message {
		return campaign("b@lists.example", fmt.Sprintf("List-Id: <l%d.lists.example>", i))
	}
	for name, x := range map[string]struct {
		message func(i int) *Message
		streams int
		strays  int // messages that are taken for those of a host without lists, until ids recur
	}{
		"150 lists, a message for each of 20": {func(i int) *Message { return list(i / 20) }, 150, 0},
		"150 lists, 20 each, all mixed":       {func(i int) *Message { return list(i * 7919 % 3000 / 20) }, 150, 200},
		"3,000 lists, one message for 40 each": {func(i int) *Message {
			m := list(i)
			for j := range 40 {
				m.Recipients = append(m.Recipients, remote(fmt.Sprintf("r%d@gmail.com", j)))
			}
			return m
		}, 3000, 0},
		"twelve campaigns": {func(i int) *Message {
			return campaign("b@news.example", fmt.Sprintf("Feedback-ID: c%d:7:promo:acme", i/250))
		}, 12, 0},
	} {
		streams := streamsOf(t, mustNew(t, base()), 3000, x.message)
		strays := streams["lists.example"]
		delete(streams, "lists.example")
		if len(streams) != x.streams || strays > x.strays {
			t.Errorf("%s: %d streams, want %d; %d strays", name, len(streams), x.streams, strays)
		}
	}
}

// TestASenderWhoChangesHisWaysIsBelieved goes from ids of recipients to one of a campaign.
func TestASenderWhoChangesHisWaysIsBelieved(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	streamsOf(t, c, 1000, func(i int) *Message { return campaign("b@news.example", fmt.Sprintf("Feedback-ID: r%d:acme", i)) })
	streams := streamsOf(t, c, 200, func(int) *Message { return campaign("b@news.example", "Feedback-ID: march:acme") })
	if streams["march:acme"] < 200-maxScore {
		t.Errorf("%v", streams)
	}
}

// TestFormerNameIsToldWhereItDiffers gives agents what they know the mail by: the name of
// before ids of recipients were known as such; and, while it is not known whether an id is one,
// as after a restart, the name without it.
func TestFormerNameIsToldWhereItDiffers(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	for i := range 100 {
		id := fmt.Sprintf("r%d:acme", i)
		d := c.Decide(campaign("b@news.example", "Feedback-ID: "+id))
		if d.Stream == id && d.Formerly != "acme" || d.Stream != id && (d.Stream != "acme" || d.Formerly != id) {
			t.Fatalf("%s: stream %q, formerly %q", id, d.Stream, d.Formerly)
		}
	}
}

// TestIDsAreBounded lets strangers submit ids and domains without end.
func TestIDsAreBounded(t *testing.T) {
	t.Parallel()
	x := newIDs()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				x.stable(fmt.Sprintf("d%d.example", i%5000), idField(i%int(idFields)), fmt.Sprint(g, i), 1)
			}
		})
	}
	wg.Wait()
	if len(x.now) > maxIDs || len(x.old) > maxIDs || len(x.owners.byKey) > maxOwners || x.owners.order.Len() != len(x.owners.byKey) {
		t.Errorf("%d and %d ids, %d and %d owners", len(x.now), len(x.old), len(x.owners.byKey), x.owners.order.Len())
	}
}

// TestIDsOfRecipientsAreKnownBesideStableOnes has a domain send both: the one kind must not
// hide the other.
func TestIDsOfRecipientsAreKnownBesideStableOnes(t *testing.T) {
	t.Parallel()
	c := mustNew(t, base())
	streams := streamsOf(t, c, 10_000, func(i int) *Message {
		if i%2 == 0 {
			return campaign("b@esp.example", "Feedback-ID: 7:8:news:two")
		}
		return campaign("b@esp.example", fmt.Sprintf("Feedback-ID: r%d:c:news:one", i))
	})
	if len(streams) > 2*varies || streams["7:8:news:two"] != 5000 {
		t.Errorf("%d streams, %d of 5,000 in the stable one", len(streams), streams["7:8:news:two"])
	}
}
