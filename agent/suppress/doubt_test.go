package suppress

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
)

// mailing sends to so many recipients of a domain, a minute after another, of whom the
// first so many are unknown.
func mailing(l *List, domain string, all, unknown int, at time.Time) {
	for i := range all {
		address, now := fmt.Sprintf("u%d@%s", i, domain), at.Add(time.Duration(i)*30*time.Minute/time.Duration(all))
		if i%(all/max(unknown, 1)) == 0 && i/(all/max(unknown, 1)) < unknown {
			l.Bounced("s", address, outcome.ClassUserUnknown, now)
		} else {
			l.Delivered("s", address, now)
		}
	}
}

func TestOneReceiversBadDaySuppressesNobody(t *testing.T) {
	t.Parallel()
	p := policy
	p.After = 1
	for _, x := range []struct {
		name         string
		all, unknown int
		suppressed   int
	}{
		{"a fifth and more", 200, 60, 0},
		{"all of fifty", 50, 50, 0},
		{"all of a thousand", 1000, 1000, 0},
		{"less than fifty", 49, 49, 49},
		{"less than a fifth", 1000, 100, 100},
	} {
		l := fresh(t, p)
		mailing(l, "b.test", x.all, x.unknown, start)
		mailing(l, "other.test", 10, 10, start)
		if st := l.Stats(start.Add(time.Hour)); st.Suppressed != x.suppressed+10 {
			t.Errorf("%s: %d are suppressed, want %d", x.name, st.Suppressed-10, x.suppressed)
		}
		// Confirmed another day, they count; the same day they do not.
		mailing(l, "b.test", x.all, x.unknown, start.Add(3*time.Hour))
		if st := l.Stats(start.Add(4 * time.Hour)); st.Suppressed != x.suppressed+10 {
			t.Errorf("%s, once more: %d are suppressed, want %d", x.name, st.Suppressed-10, x.suppressed)
		}
		mailing(l, "b.test", x.all, x.unknown, start.Add(day+3*time.Hour))
		if st := l.Stats(start.Add(day + 4*time.Hour)); st.Suppressed != x.unknown+10 {
			t.Errorf("%s, the next day: %d are suppressed, want %d", x.name, st.Suppressed-10, x.unknown)
		}
	}
}

// What has been delivered in between is good again, in doubt or not.
func TestABadDayEndsWithADelivery(t *testing.T) {
	t.Parallel()
	p := policy
	p.After = 1
	l := fresh(t, p)
	mailing(l, "b.test", 100, 100, start)
	mailing(l, "b.test", 100, 0, start.Add(2*time.Hour))
	if st := l.Stats(start.Add(3 * time.Hour)); st.Suppressed != 0 || st.Counted != 0 {
		t.Errorf("%+v", st)
	}
}

func TestWatchedDomainsAreForgotten(t *testing.T) {
	t.Parallel()
	l := fresh(t, policy)
	for i := range 1000 {
		l.Delivered("s", fmt.Sprintf("a@d%d.test", i), start)
	}
	l.Delivered("s", "a@last.test", start.Add(2*time.Hour))
	if n := len(l.domains.byName); n != 1 {
		t.Errorf("%d domains are watched", n)
	}
}
