package breaker

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/durable"
)

// saveEvery is how often the file is written, if something has changed.
const saveEvery = time.Minute

// file is what is kept over a restart.
type file struct {
	Runs     []Run     `json:"runs,omitempty"`
	Reported []string  `json:"complaints_from,omitempty"` // providers from which a complaint was seen
	Mailed   time.Time `json:"mailed,omitzero"`
	Told     []hold    `json:"told_of,omitempty"`
}

func (b *Breaker) load() error {
	if b.o.Path == "" {
		return nil
	}
	text, err := os.ReadFile(b.o.Path)
	if durable.Missing(err) {
		return nil
	}
	var f file
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.o.Path, err)
	}
	for i := range f.Runs {
		if r := &f.Runs[i]; r.Recipients > 0 && r.HardBounces >= 0 && r.Complaints >= 0 && len(b.runs) < maxRuns {
			r.saved = r.Recipients
			b.runs[r.Key] = r
		}
	}
	for _, p := range f.Reported {
		b.reported[p] = true
	}
	for _, h := range f.Told {
		b.told[h] = true
	}
	b.mailed = f.Mailed
	return nil
}

// save writes the file now and then; with must in any case.
func (b *Breaker) save(now time.Time, must bool) {
	b.mu.Lock()
	if !b.dirty || b.o.Path == "" || !must && !b.urgent && now.Sub(b.saved) < saveEvery {
		b.mu.Unlock()
		return
	}
	b.forgetOld()
	f := file{Runs: b.list(), Reported: slices.Sorted(maps.Keys(b.reported)), Mailed: b.mailed, Told: slices.Collect(maps.Keys(b.told))}
	for _, r := range b.runs {
		r.saved = r.Recipients // if that fails, the next try is in a minute
	}
	told := b.failed
	b.dirty, b.urgent, b.saved = false, false, now
	b.mu.Unlock()
	text, err := json.Marshal(f)
	if err == nil {
		err = durable.Replace(b.o.Path, append(text, '\n'))
	}
	if err != nil && !told {
		b.o.Log.Warn("what the breaker counts is not saved; a restart would count anew", "err", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err != nil
	b.dirty = b.dirty || err != nil
}
