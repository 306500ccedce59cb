package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/agent/queue"
)

// streamsFile, in the state directory, keeps what was asked of streams over a
// restart: an admin's pause must not end because the agent did.
const streamsFile = "streams.json"

// keptStream is one entry of the file.
type keptStream struct {
	Stream   string    `json:"stream"`
	Paused   string    `json:"paused,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Priority int       `json:"priority,omitempty"`
}

// keepSettings writes the settings of all streams. The new file is whole and
// synced before it takes the old one's name, and the name is synced before the
// caller is told. Callers hold settingMu.
func (a *Agent) keepSettings() error {
	dir := a.now.Load().config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	list := []keptStream{}
	for name, s := range a.queue.Settings() {
		list = append(list, keptStream{name, s.Paused, s.Until, s.Priority})
	}
	b, err := json.MarshalIndent(list, "", "\t")
	if err == nil {
		err = replaceFile(filepath.Join(dir, streamsFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("this is in force, but will not outlive the agent: %w", err)
	}
	return nil
}

// restoreSettings puts into force what an earlier agent kept.
func (a *Agent) restoreSettings() error {
	dir := a.now.Load().config.Agent.StateDirectory
	if dir == "" {
		return nil
	}
	path := filepath.Join(dir, streamsFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var list []keptStream
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	for _, s := range list {
		if err == nil {
			err = a.queue.SetStream(s.Stream, queue.StreamSetting{Paused: s.Paused, Until: s.Until, Priority: s.Priority})
		}
	}
	if err != nil {
		// To send what somebody has paused is worse than not to start.
		return fmt.Errorf("the streams' pauses cannot be read: %w; remedy: mend %s, or remove it to let all streams go on", err, path)
	}
	return nil
}

// replaceFile puts a file in the place of another, durably.
func replaceFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
