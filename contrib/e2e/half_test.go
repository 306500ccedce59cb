package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/contrib/lab"
)

// TestNewsletterGetsItsHalf has a campaign give each message an id of its recipient, and a
// newsletter come behind it, when all of the campaign waits. The milter names the streams,
// as the mail comes from Postfix. The newsletter is through when about as many of the
// campaign are, not when nearly all of them are.
func TestNewsletterGetsItsHalf(t *testing.T) {
	t.Parallel()
	const (
		total    = halfCampaign + halfNewsletter
		sessions = 20
		strays   = 20 // messages of the campaign before its ids were known as such
	)
	r := enter(t, setup{patience: time.Hour, millrace: lab.MillraceOptions{Set: map[string]string{
		"general.max_sessions": fmt.Sprint(sessions),
	}}})
	agent := control.NewClient(r.Millrace.Control())
	t.Cleanup(agent.Close)
	if err := agent.Pause(r.ctx, control.Pause{Filter: control.Filter{All: true}, Reason: "until all is there"}); err != nil {
		t.Fatal(err)
	}
	r.sendAll(halfCampaign, func(i int) (from, to, content string) {
		return fmt.Sprintf("b%d@promo.lab.test", i), fmt.Sprintf("c%d@far.test", i), "From: Acme <acme@promo.lab.test>\r\n" +
			fmt.Sprintf("To: c%d@far.test\r\nSubject: Offer\r\nFeedback-ID: r%d:7:promo:acme\r\nX-Mailcoach: true\r\n", i, i) +
			"List-Unsubscribe: <https://promo.lab.test/u>\r\n\r\nOffers.\r\n"
	})
	r.sendAll(halfNewsletter, func(i int) (from, to, content string) {
		return "news-bounces@news.lab.test", fmt.Sprintf("n%d@far.test", i), "From: News <news@news.lab.test>\r\n" +
			"To: news@news.lab.test\r\nSubject: News\r\nList-Id: <news.news.lab.test>\r\nPrecedence: bulk\r\n" +
			"List-Unsubscribe: <https://news.lab.test/u>\r\n\r\nNews.\r\n"
	})
	queued := func() int {
		st, err := agent.Status(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st.Queued()
	}
	r.until("all waits", func() bool { return queued() == total })
	if n := len(r.all()); n != 0 {
		t.Errorf("%d messages were sent before", n)
	}
	if _, err := agent.Resume(r.ctx, control.Filter{All: true}); err != nil {
		t.Fatal(err)
	}
	// A session that the machine holds up with a message in hand says nothing of the order
	// in which mail was taken: what counts is when nine of ten are through.
	const most = halfNewsletter - halfNewsletter/10
	through, seen, mostAfter, allAfter := 0, 0, 0, 0
	r.until("the newsletter is through", func() bool {
		for _, a := range r.after(seen) {
			seen++
			if !a.ours() {
				t.Fatalf("%s came by Postfix", a.recipient)
			}
			if strings.HasPrefix(a.recipient, "n") {
				if through++; through <= most {
					mostAfter = seen
				}
				allAfter = seen
			}
		}
		return through == halfNewsletter || seen == total
	})
	t.Logf("of %d messages, the %d of the newsletter are through after %d transactions, %d of them after %d", total, through, allAfter, most, mostAfter)
	if through != halfNewsletter || mostAfter > 2*halfNewsletter+strays+2*sessions {
		t.Errorf("%d of the newsletter's %d are through, %d of them after %d of %d", through, halfNewsletter, most, mostAfter, total)
	}
}

// after gives the arrivals but the first n.
func (r *room) after(n int) []arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]arrival(nil), r.arrivals[n:]...)
}

// sendAll sends n messages over connections side by side.
func (r *room) sendAll(n int, message func(i int) (from, to, content string)) {
	r.t.Helper()
	const connections = 8
	var wg sync.WaitGroup
	for k := range connections {
		wg.Go(func() {
			c, err := lab.Dial(r.ctx, r.Host.SMTPAddr())
			if err != nil {
				r.t.Error(err)
				return
			}
			defer c.Close()
			for i := k; i < n; i += connections {
				from, to, content := message(i)
				if _, err := c.Send(r.ctx, from, []string{to}, []byte(content)); err != nil {
					r.t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
