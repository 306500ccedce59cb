package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/agent/durable"
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

// keepSettings writes the settings of all streams; on return they will outlive a
// crash. Callers hold settingMu.
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
		err = durable.Replace(filepath.Join(dir, streamsFile), append(b, '\n'))
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
