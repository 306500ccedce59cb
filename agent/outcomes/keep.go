package outcomes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// look removes files that are too old or too many, and measures the rest. The caller holds mu.
func (o *Outcomes) look(now time.Time) {
	p := o.policy.Load()
	list := o.files()
	if i := slices.IndexFunc(list, func(path string) bool { return expired(path, now, p.Keep) }); i >= 0 && o.due(&o.aged, now, agedEvery) {
		o.remove(list[i], "it is older than [outcomes] keep, or of a clock that was ahead")
		list = slices.Delete(list, i, i+1)
	}
	asides := o.asides()
	for _, path := range asides {
		if info, err := os.Stat(path); err == nil && now.Sub(info.ModTime()) > p.Keep {
			o.told(os.Remove(path))
		}
	}
	if p.KeepTotals == 0 && o.totals == nil {
		o.unlink(o.totalsPath())
	}
	o.full = ""
	for {
		total := o.size()
		why := ""
		if p.MaxSize > 0 && total > p.MaxSize {
			why = fmt.Sprintf("all files of outcomes have %d MiB, more than [outcomes] max_size", total>>20)
		} else if err := o.room(); err != nil {
			why = err.Error()
		}
		if why == "" || !p.on() {
			o.measure(total, len(list))
			return
		}
		if len(asides) > 0 {
			for _, path := range asides {
				if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
					o.told(err)
				}
			}
			asides = nil
			continue
		}
		i := slices.IndexFunc(list, func(path string) bool { return path != o.dayPath(now) })
		if i < 0 {
			o.full = why + ", and there is but one day; remedy: make room, or max_size larger"
			o.measure(total, len(list))
			return
		}
		o.remove(list[i], why)
		list = slices.Delete(list, i, i+1)
	}
}

// expired reports whether a day is further from now than it is kept: before now, or after it,
// as a clock that was ahead leaves them.
func expired(path string, now time.Time, keep time.Duration) bool {
	day, _ := dayOf(path)
	age := now.Sub(day)
	return age >= keep+24*time.Hour || -age >= keep+24*time.Hour
}

// room returns an error when the file system has less left than it must have.
func (o *Outcomes) room() error {
	free, err := o.o.Free(o.o.StateDirectory)
	if least := o.policy.Load().MinFree; err == nil && free < least {
		return fmt.Errorf("the file system of %s has %d MiB left, less than [spool] min_free", o.o.StateDirectory, free>>20)
	}
	return nil // an error of the file system shows when it is written to
}

// remove ends the file of a day, with what SQLite has beside it and what was set aside of it.
func (o *Outcomes) remove(path, why string) {
	if o.day != nil && o.day.path == path {
		o.told(o.day.close())
		o.day = nil
	}
	o.o.Log.Info("a day of outcomes is removed", "file", path, "reason", why)
	o.unlink(path)
}

func (o *Outcomes) unlink(path string) {
	for _, name := range beside(path) {
		o.told(os.Remove(name))
	}
}

// asides lists the damaged files that were set aside.
func (o *Outcomes) asides() []string {
	list, _ := filepath.Glob(filepath.Join(o.dir(), "*"+suffix+damaged+"*"))
	return list
}

// beside lists a database, what SQLite has beside it, and what was set aside of it.
func beside(path string) (list []string) {
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)) {
			list = append(list, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return list
}

// size is how many octets the directory takes.
func (o *Outcomes) size() (n int64) {
	entries, _ := os.ReadDir(o.dir())
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
	}
	return n
}

func (o *Outcomes) measure(octets int64, days int) {
	st := Stats{Octets: octets, Days: days}
	if o.day != nil {
		st.WAL, _ = sizeOf(o.day.path + "-wal")
	}
	o.stats.Store(&st)
}
