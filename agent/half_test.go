package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/contrib/lab/sink"
	"github.com/millrace/millrace/milter/classify"
)

// TestNewsletterGetsItsHalfBesideIDsOfRecipients queues a campaign that gives each message an
// id of its own, then a newsletter, as the milter names their streams. Over one session the
// newsletter is through when about as much of the campaign is, not when all of it is. The few
// messages before the ids were known as such come on top, and what went before the resume
// had reached the newsletter.
func TestNewsletterGetsItsHalfBesideIDsOfRecipients(t *testing.T) {
	t.Parallel()
	const campaign, newsletter, strays = 500, 50, 20
	milter, err := classify.New(config.Milter{Scope: []string{"loopback"}, Remote: []string{"smtp"}, BuiltinRules: true}, classify.NewVolume())
	if err != nil {
		t.Fatal(err)
	}
	decide := func(sender string, fields ...classify.Field) spool.Envelope {
		d := milter.Decide(&classify.Message{
			Sender: sender, Client: netip.MustParseAddr("127.0.0.1"), Header: append(fields,
				classify.Field{Name: "List-Unsubscribe", Value: "<x>"}, classify.Field{Name: "X-Mailcoach", Value: "1"}),
			Recipients: []classify.Recipient{{Address: "x@far.test", Mailer: "smtp", Host: "far.test"}},
		})
		if d.Divert == nil {
			t.Fatal(d.Reason)
		}
		return spool.Envelope{Sender: sender, Stream: d.Stream, Formerly: d.Formerly}
	}
	s := newStage(t, func(c *config.Config) { c.General.MaxSessions = 1 }, sink.Provider{Name: "far", Domains: []string{"far.test"}})
	s.start()
	s.pause(control.Filter{All: true}, "until all is there")
	for i := range campaign {
		s.send(decide("b@promo.test", classify.Field{Name: "Feedback-ID", Value: fmt.Sprintf("r%d:acme", i)}), letter, fmt.Sprintf("c%d@far.test", i))
	}
	for i := range newsletter {
		s.send(decide("n@news.test", classify.Field{Name: "List-Id", Value: "<weekly.news.test>"}), letter, fmt.Sprintf("n%d@far.test", i))
	}
	s.until("queued", func() bool { return s.status().Waiting == campaign+newsletter })
	s.resume(control.Filter{All: true})
	s.until("all goes", func() bool { return len(s.at("far")) == campaign+newsletter && s.empty() })
	var order []string
	for _, a := range s.at("far") {
		order = append(order, a.recipient)
	}
	slices.Reverse(order)
	last := len(order) - slices.IndexFunc(order, func(r string) bool { return strings.HasPrefix(r, "n") })
	if last > 4*newsletter+strays {
		t.Errorf("the newsletter of %d is through after %d messages", newsletter, last)
	}
}
