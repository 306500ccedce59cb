package breaker

import (
	"path/filepath"
	"testing"
	"time"
)

// A clock that was set back by a day makes no storm: what was told is not told again, what is held
// since is told once, and an hour lies between two mails.
func TestClockThatIsSetBackMakesNoStormOfMail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	hold := func(stream string, at time.Time) {
		x.now = at
		for range least {
			x.Delivery(delivery(stream, "far", "bounced", at))
		}
	}
	hold("a", noon)
	x.tell(noon)
	if len(x.mails) != 1 {
		t.Fatalf("%d mails", len(x.mails))
	}
	back := noon.AddDate(0, 0, -1)
	for i := range 10 {
		x.tell(back.Add(time.Duration(i) * time.Second))
	}
	if len(x.mails) != 1 {
		t.Fatalf("%d mails tell of what was told", len(x.mails))
	}
	hold("b", back.Add(time.Minute))
	for i := range 24 * 60 {
		x.tell(back.Add(time.Duration(i) * time.Minute))
	}
	if len(x.mails) != 2 {
		t.Errorf("%d mails", len(x.mails))
	}
}

// A clock that shows next month for a minute costs a run nothing.
func TestClockThatIsAheadForgetsNoRun(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "breaker.json")
	x := newBench(path, noon)
	x.accept("news", "far", 500)
	ahead := noon.AddDate(0, 1, 0)
	x.save(ahead, true)
	x = newBench(path, ahead)
	d := delivery("news", "far", "sent", ahead)
	d.Envelope.Arrived = ahead
	x.Delivery(d)
	x.save(ahead.Add(time.Minute), true)
	x = newBench(path, noon)
	if list := x.counted(); len(list) != 2 || list[0].Recipients != 500 {
		t.Errorf("%+v", list)
	}
}
