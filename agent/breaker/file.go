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
			b.runs[r.Key] = r
		}
	}
	for _, p := range f.Reported {
		b.reported[p] = true
	}
	b.mailed = f.Mailed
	return nil
}

// save writes the file now and then; with must in any case.
func (b *Breaker) save(now time.Time, must bool) {
	b.mu.Lock()
	if !b.dirty || b.o.Path == "" || !must && now.Sub(b.saved) < saveEvery {
		b.mu.Unlock()
		return
	}
	b.forgetOld(now)
	f := file{Reported: slices.Sorted(maps.Keys(b.reported)), Mailed: b.mailed}
	told := b.failed
	b.dirty, b.saved = false, now
	b.mu.Unlock()
	f.Runs = b.List()
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
