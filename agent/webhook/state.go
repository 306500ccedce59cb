package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/eventlog"
)

const (
	stateSuffix = ".json"
	asideDir    = "aside"
	// maxAside bounds the events that are set aside of a webhook: the oldest go.
	maxAside = 500
)

// state is what outlives a restart.
type state struct {
	Cursor eventlog.Cursor `json:"cursor"`
	Taken  uint64          `json:"taken"`          // events, since the webhook began
	Lost   uint64          `json:"lost,omitempty"` // likewise, by the bounds of the log
	Gone   uint64          `json:"gone,omitempty"` // that were set aside, and are not listed any more
}

// Aside is an event that was refused for good.
type Aside struct {
	ID     string          `json:"id"`
	Time   time.Time       `json:"time"` // when it was set aside
	Answer string          `json:"answer"`
	Event  json.RawMessage `json:"event"` // as it was posted
}

func (h *hook) statePath() string {
	return filepath.Join(h.sender.dir(), h.config.Name+stateSuffix)
}

func (h *hook) asidePath() string {
	return filepath.Join(h.sender.dir(), asideDir, h.config.Name+stateSuffix)
}

// load reads what an earlier run has left. A webhook that is new begins at the end of the log;
// one whose state cannot be read at the beginning of it: what was taken comes again.
func (h *hook) load(l *eventlog.Log) {
	err := readState(h.statePath(), &h.kept)
	if errors.Is(err, fs.ErrNotExist) {
		h.kept = state{Cursor: l.End()}
		if err := h.save(); err != nil { // else a crash would have it begin anew
			h.unwritten = err.Error()
		}
	} else if err != nil {
		h.sender.o.Log.Error("the place of a webhook in the log of events cannot be read; all that the log has is posted again", "webhook", h.config.Name, "err", err)
		h.kept = state{Cursor: l.Start()}
	}
	h.read, h.told = h.kept.Cursor, h.kept.Lost
	if err := read(h.asidePath(), &h.aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.sender.o.Log.Error("events that a webhook had set aside cannot be read, and are listed no more", "webhook", h.config.Name, "err", err)
		h.aside = nil
	}
}

// maxSegment is a number that no log reaches: what says it was not written by us.
const maxSegment = 1 << 62

func readState(path string, into *state) error {
	if err := read(path, into); err != nil {
		return err
	}
	if into.Cursor.Segment > maxSegment {
		return fmt.Errorf("%s: no log has a segment %d", path, into.Cursor.Segment)
	}
	return nil
}

func read(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// save writes the cursor, synced.
func (h *hook) save() error {
	err := h.replace(h.statePath(), &h.kept)
	if err == nil {
		h.saved, h.unsaved = time.Now(), false
	}
	return err
}

// setAside lists an event that was refused. It is on disk before the cursor moves past it:
// a crash in between tries it again, and lists it once.
func (h *hook) setAside(a Aside) error {
	list := slices.DeleteFunc(slices.Clone(h.aside), func(x Aside) bool { return x.ID == a.ID })
	list = append(list, a)
	gone := max(len(list)-maxAside, 0)
	list = list[gone:]
	if err := h.replace(h.asidePath(), list); err != nil {
		return err
	}
	h.aside, h.kept.Gone = list, h.kept.Gone+uint64(gone)
	return nil
}

// listNoMore takes events from the list that match.
func (h *hook) listNoMore(match func(*Aside) bool) (n int, err error) {
	list := slices.DeleteFunc(slices.Clone(h.aside), func(a Aside) bool { return match(&a) })
	if n = len(h.aside) - len(list); n == 0 {
		return 0, nil
	}
	if err := h.replace(h.asidePath(), list); err != nil {
		return 0, err
	}
	h.aside = list
	return n, nil
}

func (h *hook) replace(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return durable.Replace(path, b)
}

// remembered is the highest number of a segment that a webhook knows.
func (s *Sender) remembered(hooks []config.Webhook) (highest uint64) {
	for _, c := range hooks {
		var st state
		if readState(filepath.Join(s.dir(), c.Name+stateSuffix), &st) == nil {
			highest = max(highest, st.Cursor.Segment)
		}
	}
	return highest
}
