package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/loop"
	"github.com/millrace/millrace/agent/queue"
)

const (
	// learnedFile, in state_directory, has what was learned of receivers: limits, how late
	// they free a slot, pace, penalties, suspensions with the reply behind them.
	learnedFile = "learned.json"
	// learnedEvery is how often it is written: what a crash may cost is that much of learning.
	learnedEvery = 30 * time.Second
	// relearnEvery is the time between tries while it cannot be written.
	relearnEvery = 2 * time.Second
)

// recall puts into force what an earlier agent has learned. What cannot be read is learned
// anew: nothing depends on it but speed.
func (a *Agent) recall(now time.Time) {
	path := a.learnedPath()
	if path == "" {
		return
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var l queue.Learned
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		a.log.Warn("what was learned of receivers cannot be read, and is learned anew", "err", err, "file", path)
		return
	}
	a.queue.Recall(now, l)
}

// remember writes what was learned, at once, so that it is known whether it can be written, and
// again and again.
func (a *Agent) remember(ctx context.Context) {
	failing := false
	var tried time.Time
	save := func(now time.Time) {
		if !failing && now.Sub(tried) < learnedEvery {
			return
		}
		tried = now
		err := a.saveLearned(now, false)
		if err != nil && !failing {
			a.log.Error("what is learned of receivers will not outlive this run", "err", err)
		}
		a.watch.SetUnsaved(err)
		failing = err != nil
	}
	save(time.Now())
	loop.Every(ctx, relearnEvery, save)
}

// saveLearned writes what was learned; stopped says that no connection is up any more.
func (a *Agent) saveLearned(now time.Time, stopped bool) error {
	path := a.learnedPath()
	if path == "" {
		return nil
	}
	// What was collected before would else replace what was collected after it.
	a.learned.Lock()
	defer a.learned.Unlock()
	l := a.queue.Learned(now)
	l.Stopped = stopped
	// The names first, see sites.Book.Keep.
	if err := a.settings.Now().Sites.Keep(now, slices.Collect(maps.Keys(l.Sites))); err != nil {
		return err
	}
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return durable.Replace(path, append(b, '\n'))
}

func (a *Agent) learnedPath() string {
	if dir := a.settings.Now().Config.Agent.StateDirectory; dir != "" {
		return filepath.Join(dir, learnedFile)
	}
	return ""
}
