package suppress

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/contrib/lab/logbuf"
)

// A receiver that takes all mail and bounces it later suppresses its address, however often
// it takes mail meanwhile; and when it has not bounced for long, what it had is forgotten.
func TestLateBouncesCountThoughMailIsTaken(t *testing.T) {
	t.Parallel()
	l, err := Open(filepath.Join(t.TempDir(), "suppressed"), (&logbuf.Buffer{}).Logger())
	if err != nil {
		t.Fatal(err)
	}
	l.Use(Policy{Mode: Drop, After: 3, Within: 30 * day, Expire: 180 * day})
	now := time.Unix(1790000000, 0)
	for i := range 3 {
		at := now.Add(time.Duration(i) * day)
		l.Delivered("news", "gone@far.test", at)
		if got := l.BouncedLate("news", "gone@far.test", outcome.ClassUserUnknown, at.Add(time.Minute)); got != (i == 2) {
			t.Errorf("bounce %d suppresses: %v", i, got)
		}
	}
	l.BouncedLate("news", "ill@far.test", outcome.ClassUserUnknown, now)
	l.BouncedLate("news", "ill@far.test", outcome.ClassUserUnknown, now.Add(day))
	if l.BouncedLate("news", "ill@far.test", outcome.ClassUserUnknown, now.Add(60*day)) {
		t.Error("bounces that lie months apart count together")
	}
	l.BouncedLate("news", "full@far.test", outcome.ClassMailboxFull, now)
	l.Bounced("news", "back@far.test", outcome.ClassUserUnknown, now)
	l.Delivered("news", "back@far.test", now) // one that bounces at once is good again
	if st := l.Stats(now); st.Suppressed != 1 || st.Counted != 1 {
		t.Errorf("%+v", st)
	}
}

// A complaint suppresses in its stream, at once, also where bounces count for all streams;
// it outlives bounces, deliveries and a restart, and ends.
func TestComplaintSuppressesInItsStream(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "suppressed")
	p := Policy{Mode: Drop, After: 3, Within: 30 * day, Expire: 180 * day, Global: true}
	open := func() *List {
		l, err := Open(path, (&logbuf.Buffer{}).Logger())
		if err != nil {
			t.Fatal(err)
		}
		l.Use(p)
		return l
	}
	l, now := open(), time.Unix(1790000000, 0)
	if !l.Complained("news", "Ann@far.test", now) || l.Complained("news", "ann@far.test", now) {
		t.Error("the first complaint is new, and no other")
	}
	l.Bounced("news", "ann@far.test", outcome.ClassUserUnknown, now)
	l.Delivered("news", "ann@far.test", now)
	if l.Complained("", "bob@far.test", now) {
		t.Error("a complaint suppresses in all streams")
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	l.close()
	l = open()
	if e, ok := l.Check("news", "ann@far.test", now.Add(179*day)); !ok || e.Class != outcome.ClassComplaint || !e.Late {
		t.Errorf("after a restart: %v, %+v", ok, e)
	}
	if _, ok := l.Check("other", "ann@far.test", now); ok {
		t.Error("suppressed in another stream")
	}
	if _, ok := l.Check("news", "ann@far.test", now.Add(181*day)); ok {
		t.Error("suppressed for ever")
	}
}
