package outcomes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/eventlog"
)

const (
	prefix = "outcomes-"
	suffix = ".db"

	// damaged ends the names of files that were set aside. There is one of a day at most.
	damaged = ".damaged"
)

// dayPath is the file of the day of a time, in UTC.
func (o *Outcomes) dayPath(t time.Time) string {
	return filepath.Join(o.dir(), prefix+t.UTC().Format(time.DateOnly)+suffix)
}

// dayOf is the day of a file; false if it is of none.
func dayOf(path string) (time.Time, bool) {
	name, ok := strings.CutPrefix(filepath.Base(path), prefix)
	name, ok2 := strings.CutSuffix(name, suffix)
	t, err := time.Parse(time.DateOnly, name)
	return t, ok && ok2 && err == nil
}

// files lists the files of days, the oldest day first.
func (o *Outcomes) files() (list []string) {
	found, _ := filepath.Glob(filepath.Join(o.dir(), prefix+"*"+suffix))
	for _, path := range found {
		if _, ok := dayOf(path); ok {
			list = append(list, path)
		}
	}
	slices.Sort(list)
	return list
}

// fill takes what the log has into the databases. last has it take all, at the end.
func (o *Outcomes) fill(ctx context.Context, last bool) {
	l := o.events.Load()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.setAside()
	now := o.o.Now()
	if l == nil {
		o.closeFiles()
		o.setTrouble("")
		if o.due(&o.looked, now, lookEvery) {
			o.look(now) // old files go, also those of a time when it was on
		}
		return
	}
	if !last && now.Before(o.hasty) && o.hasty.Sub(now) <= retryEvery {
		return
	}
	if last {
		_ = l.Flush(ctx) // an error is in Trouble
	}
	if err := o.fillFrom(ctx, l, now); err != nil && ctx.Err() == nil {
		o.hasty = now.Add(retryEvery)
		o.setTrouble(err.Error())
	} else if err == nil {
		o.setTrouble(o.wal)
	}
}

// due reports whether the time d has passed since it last did. A clock that was set back
// holds nothing up.
func (o *Outcomes) due(last *time.Time, now time.Time, d time.Duration) bool {
	if since := now.Sub(*last); since >= 0 && since < d {
		return false
	}
	*last = now
	return true
}

func (o *Outcomes) fillFrom(ctx context.Context, l *eventlog.Log, now time.Time) error {
	o.reopen()
	if err := o.open(ctx); err != nil {
		return err
	}
	if o.policy.Load().Keep > 0 {
		o.bared = false
	} else if !o.bared {
		// What came with an address is in the log before it is read to its end, and erased
		// there only then.
		if err := l.Flush(ctx); err != nil {
			return err
		}
	}
	b := &o.batch
	for {
		if o.due(&o.looked, now, lookEvery) {
			o.look(now)
			_ = l.Flush(ctx) // old segments go; an error is in Trouble
		}
		if o.full != "" {
			return errors.New(o.full)
		}
		if err := o.watchWAL(ctx); err != nil {
			return err
		}
		p := o.policy.Load()
		from, first := o.rows, true
		if p.Keep == 0 {
			first = false
		}
		if o.totals != nil && (!first || o.totals.cursor.Before(from)) {
			from = o.totals.cursor
		}
		if err := l.Read(from, batchRows, b); err != nil {
			return err
		}
		for i := range b.Records {
			if r := &b.Records[i]; r.Event == eventlog.Gap {
				o.missed(r.Lost, now)
			}
		}
		if b.Lost > 0 {
			o.gap(p, b, now)
		}
		if err := o.takeIn(ctx, p, b, now); err != nil {
			return o.mend(err)
		}
		if o.totals != nil && o.due(&o.folded, now, time.Hour) {
			if err := o.totals.fold(ctx, now, p.KeepTotals); err != nil {
				return o.mend(err)
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if !b.More {
			return o.bare(ctx, l, p)
		}
	}
}

// bare erases the events that have a recipient, once, where no rows are kept: they are counted
// by now, and nobody wants the addresses.
func (o *Outcomes) bare(ctx context.Context, l *eventlog.Log, p *Policy) error {
	if p.Keep > 0 || o.bared {
		return nil
	}
	_, err := l.Erase(ctx, func(r *eventlog.Record) bool { return r.Recipient != "" || r.Hash != 0 })
	o.bared = err == nil
	return err
}

// open opens totals.db, and finds out where the rows of all days end.
func (o *Outcomes) open(ctx context.Context) error {
	p := o.policy.Load()
	if err := os.MkdirAll(o.dir(), 0o700); err != nil {
		return err
	}
	if p.KeepTotals == 0 && o.totals != nil {
		o.told(o.totals.close())
		o.totals = nil
	}
	for p.KeepTotals > 0 && o.totals == nil {
		t, err := openTotals(ctx, o.totalsPath())
		if err == nil {
			o.totals = t
		} else if err = o.mendFile(o.totalsPath(), err); err != nil {
			return err
		}
	}
	if p.Keep == 0 && o.day != nil {
		o.told(o.day.close())
		o.day, o.known = nil, false
	}
	if o.known || p.Keep == 0 {
		return nil
	}
	o.rows = eventlog.Cursor{}
	list := o.files()
	for i, path := range list {
		c, err := cursorOf(path)
		if err != nil {
			if err = o.mendFile(path, err); err != nil {
				return err
			}
			continue
		}
		if o.rows.Before(c) {
			o.rows = c
		}
		if i < len(list)-1 {
			if err := o.finish(ctx, path); err != nil { // of a crash around midnight
				if err = o.mendFile(path, err); err != nil {
					return err
				}
				return o.open(ctx)
			}
		}
	}
	o.known = true
	return nil
}

// finish writes the keys of the last attempts of a day that is over.
func (o *Outcomes) finish(ctx context.Context, path string) error {
	if done, err := finished(ctx, path); done || err != nil {
		return err
	}
	d, err := openDay(ctx, path)
	if err != nil {
		return err
	}
	return errors.Join(d.writeRun(ctx), d.close())
}

// gap makes a record of what was lost between the log's writer and us.
func (o *Outcomes) gap(p *Policy, b *eventlog.Batch, now time.Time) {
	if p.Keep > 0 && !b.Next.Before(o.rows) || p.Keep == 0 {
		o.lostN.Add(b.Lost)
		o.missed(b.Lost, now)
		o.o.Log.Warn("events are missing among the outcomes", "events", b.Lost, "damaged", b.Damaged)
	}
	at := now
	if len(b.Records) > 0 {
		at = b.Records[0].Time
	}
	place := b.Next
	if len(b.Places) > 0 {
		place = b.Places[0]
	}
	b.Records = slices.Insert(b.Records, 0, eventlog.Record{Time: at, Event: eventlog.Gap, Due: at, Lost: b.Lost})
	b.Places = slices.Insert(b.Places, 0, place)
}

// takeIn writes a batch: its rows, a transaction for each change of day, and its counts.
func (o *Outcomes) takeIn(ctx context.Context, p *Policy, b *eventlog.Batch, now time.Time) error {
	if p.Keep > 0 && o.rows.Before(b.Next) {
		records, places := b.Records, b.Places
		for len(places) > 0 && places[0].Before(o.rows) {
			records, places = records[1:], places[1:]
		}
		for len(records) > 0 {
			path := o.dayPath(records[0].Time)
			n := 1
			for n < len(records) && sameDay(records[n].Time, records[0].Time) {
				n++
			}
			to := b.Next
			if n < len(records) {
				to = places[n]
			}
			if !expired(path, now, p.Keep+24*time.Hour) { // else it would be removed at once
				if err := o.openDayFile(ctx, path); err != nil {
					return fileError{path, err}
				}
				if err := o.day.add(ctx, records[:n], to); err != nil {
					return fileError{path, err}
				}
				o.rowsN.Add(uint64(n))
			}
			o.rows = to
			records, places = records[n:], places[n:]
		}
		// Without records the cursor moves in memory only: nothing would be missing.
		o.rows = b.Next
	}
	if o.totals != nil && o.totals.cursor.Before(b.Next) {
		records := b.Records
		for i := 0; i < len(b.Places) && b.Places[i].Before(o.totals.cursor); i++ {
			records = records[1:]
		}
		if err := o.totals.add(ctx, records, b.Next); err != nil {
			return fileError{o.totalsPath(), err}
		}
	}
	return nil
}

func sameDay(a, b time.Time) bool {
	const day = 24 * 60 * 60
	return a.Unix()/day == b.Unix()/day
}

// openDayFile has the file of a day open, and no other one.
func (o *Outcomes) openDayFile(ctx context.Context, path string) error {
	if o.day != nil && o.day.path == path {
		return nil
	}
	if o.day != nil {
		old := o.day
		o.day = nil
		if err := errors.Join(old.writeRun(ctx), old.close()); err != nil {
			o.told(err) // its last rows are found without keys
		}
	}
	d, err := openDay(ctx, path)
	if err != nil {
		return err
	}
	o.day = d
	return nil
}

// fileError is an error with a file.
type fileError struct {
	path string
	err  error
}

func (e fileError) Error() string { return fmt.Sprintf("%s: %v", e.path, e.err) }
func (e fileError) Unwrap() error { return e.err }

// mend renames a file that is of no use any more; the next try begins it anew.
func (o *Outcomes) mend(err error) error {
	var f fileError
	if errors.As(err, &f) {
		return o.mendFile(f.path, f.err)
	}
	return err
}

func (o *Outcomes) mendFile(path string, err error) error {
	if !unusable(err) {
		return fmt.Errorf("%s: %w", path, err)
	}
	o.closeFiles()
	aside := path + damaged
	o.o.Log.Error("a file of outcomes is damaged; it is set aside, and begun anew", "file", path, "aside", aside, "err", err)
	o.renewed.Store(&renewal{o.o.Now(), path, "damaged"})
	for _, end := range []string{"", "-wal"} {
		if err := os.Rename(path+end, aside+end); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(path + "-shm"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	o.hasty = time.Time{}
	return nil
}

// inUse lists the files that are open for writing.
func (o *Outcomes) inUse() (list []*database) {
	if o.day != nil {
		list = append(list, o.day.database)
	}
	if o.totals != nil {
		list = append(list, o.totals.database)
	}
	return list
}

// reopen closes all files if one that is in use is not there any more, is another one, or
// has become shorter. The next fill opens them, and finds out what they have.
func (o *Outcomes) reopen() {
	taken := false
	for _, d := range o.inUse() {
		info, err := os.Stat(d.path)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && d.file != nil && (!os.SameFile(info, d.file) || info.Size() < d.file.Size()):
			o.o.Log.Error("a file of outcomes was removed or replaced while it was in use; it is begun anew", "file", d.path)
			o.renewed.Store(&renewal{o.o.Now(), d.path, "removed or replaced"})
			taken = true
		case err == nil:
			d.file = info
		}
	}
	if taken {
		o.closeFiles()
	}
}

// setAside does so with files that look-ups found damaged.
func (o *Outcomes) setAside() {
	for {
		select {
		case f := <-o.broken:
			o.told(o.mendFile(f.path, f.err))
		default:
			return
		}
	}
}

// watchWAL returns an error while a reader of another program keeps a WAL from being
// taken over, and it has grown too large; before that it tells in wal that one grows.
func (o *Outcomes) watchWAL(ctx context.Context) error {
	o.wal = ""
	for _, d := range o.inUse() {
		n, err := sizeOf(d.path + "-wal")
		if err == nil && n >= o.large {
			n, err = d.checkpoint(ctx)
		}
		if err != nil {
			return err
		}
		if n < o.large {
			continue
		}
		text := fmt.Sprintf("%s-wal has %d MiB, since another program has been reading the database for long; remedy: end it (fuser %s)", d.path, n>>20, d.path)
		if n >= o.most {
			return errors.New(text)
		}
		o.wal = text
	}
	return nil
}
