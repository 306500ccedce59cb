package warmup

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/quotas"
)

// saveEvery is how often outcomes are written.
const saveEvery = time.Minute

// file is what is kept over a restart.
type file struct {
	Courses   []*course            `json:"courses,omitempty"`
	Providers map[string]*provider `json:"providers,omitempty"`
	Lost      string               `json:"lost,omitempty"` // the day on which a file was found damaged
}

// load reads the file. The error says that it may be there, and cannot be read.
func (w *Warmup) load(now time.Time) error {
	if w.path == "" {
		return nil
	}
	text, err := os.ReadFile(w.path)
	if durable.Missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the courses of warm-up cannot be read: %w; remedy: see that the agent may read %s", err, w.path)
	}
	f := new(file)
	if err = json.Unmarshal(text, &f); err == nil {
		err = f.check()
	}
	if err != nil {
		w.damaged(quotas.SetAside(w.path, now, err), now)
		return nil
	}
	for _, c := range f.Courses {
		c.share = &Share{w: w, c: c}
		if old := w.courses[c.Key]; old != nil { // asked for meanwhile
			c.share, old.share.c = old.share, c
		}
		w.courses[c.Key] = c
	}
	for name, p := range f.Providers {
		w.providers[name] = p
	}
	if f.Lost != "" && w.lost.Load() == nil {
		w.lost.Store(&f.Lost)
	}
	return nil
}

// check says whether a file can be what save wrote.
func (f *file) check() error {
	if f == nil {
		return errors.New("it has no courses")
	}
	for _, c := range f.Courses {
		if c == nil || c.Address == "" {
			return errors.New("a course is of no address")
		}
		before := ""
		for _, d := range slices.Concat(c.Days, c.Later) {
			if d == nil || d.Step < 0 || d.Share < 0 || d.Date <= before || d.Attempts < 0 || d.Accepted < 0 || d.Deferrals < 0 || d.HardBounces < 0 || d.Complaints < 0 {
				return fmt.Errorf("the days of %s at %s make no sense", c.Address, c.Provider)
			}
			if _, err := time.Parse(time.DateOnly, d.Date); err != nil {
				return err
			}
			before = d.Date
		}
	}
	for name, p := range f.Providers {
		if p == nil || slices.ContainsFunc(p.Days, func(s seen) bool { return s.Accepted < 0 || s.Complaints < 0 }) {
			return fmt.Errorf("the counts of %s make no sense", name)
		}
	}
	return nil
}

// save writes the file now and then; with must in any case, if it lacks something.
func (w *Warmup) save(now time.Time, must bool) {
	w.mu.Lock()
	if w.unsaved.Swap(false) {
		w.changed()
	}
	begun := slices.ContainsFunc(w.list(), func(c *course) bool { return len(c.Days) > 0 || len(c.Later) > 0 })
	if w.path == "" || w.unread != nil || !w.dirty || !begun && w.lost.Load() == nil || !must && !w.urgent && now.Sub(w.saved) < saveEvery {
		w.mu.Unlock()
		return
	}
	f := file{Providers: w.providers, Lost: w.lostOn()}
	for _, c := range w.list() {
		if len(c.Days) == 0 && len(c.Later) == 0 {
			continue // no mail yet
		}
		if _, ok := w.plans[c.Address]; !ok && c.idle(w.date(now)) {
			continue // it would begin anew, if ever
		}
		f.Courses = append(f.Courses, c)
	}
	text, err := json.Marshal(f)
	told := w.failed != nil
	w.dirty, w.urgent, w.saved = false, false, now
	w.mu.Unlock()
	if err == nil {
		err = durable.Replace(w.path, append(text, '\n'))
	}
	if err != nil {
		err = fmt.Errorf("the courses of warm-up cannot be written: %w; remedy: see that the agent may write to state_directory (millrace check)", err)
		if !told {
			w.o.Log.Error("a restart would know less of warm-up", "err", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
	w.dirty = w.dirty || err != nil
}

// list are the courses by address and provider. The caller holds mu.
func (w *Warmup) list() []*course {
	list := make([]*course, 0, len(w.courses))
	for _, c := range w.courses {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *course) int {
		return cmp.Or(cmp.Compare(a.Address, b.Address), cmp.Compare(a.Provider, b.Provider))
	})
	return list
}

// Course is what List tells of a course.
type Course struct {
	Key
	Plan    string
	Shares  []int // of the plan's days
	Days    []Day // the oldest first; the last is today, if there was mail today or before
	Done    string
	Used    int  // today
	Knows   bool // complaints were seen from the provider
	Lost    bool // today's share is gone, as a file was damaged
	BadDays int  // in a row, up to the last that is over
}

// List tells all courses of addresses that have a plan, by address and provider; none if there
// is no Warmup.
func (w *Warmup) List(now time.Time) (list []Course) {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.list() {
		p, ok := w.plans[c.Address]
		if !ok {
			continue
		}
		w.turn(c, p, now)
		if len(c.Days) == 0 || c.idle(w.date(now)) {
			continue
		}
		x := Course{Key: c.Key, Plan: p.Name, Shares: p.Days, Done: c.done(), Lost: w.Lost(now)}
		if s := w.providers[c.Provider]; s != nil {
			x.Knows = s.Reported
		}
		for _, d := range c.Days {
			if !d.Warm {
				x.Days = append(x.Days, *d)
			}
		}
		if d := c.today(); x.Done == "" {
			x.Used = w.book.UsedOn(c.count(), d.Date)
			now := &x.Days[len(x.Days)-1]
			now.Used = x.Used
			now.Complaints = w.complaints(c.Provider, d.Date)
		}
		for i := len(x.Days) - 2; i >= 0 && x.Days[i].Bad; i-- {
			x.BadDays++
		}
		list = append(list, x)
	}
	return list
}
