package assess

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace/agent/durable"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/spool"
)

// Record is what is counted over restarts, so that an admin hears when much is sent and no
// report ever comes.
type Record struct {
	Sent  uint64    `json:"sent"`           // recipients, until the first report about mail of ours
	Since time.Time `json:"since,omitzero"` // when that began
	Last  time.Time `json:"last,omitzero"`  // of such a report; zero: there never was one
}

const (
	// recordFile, in the state directory, keeps the Record.
	recordFile = "reports.json"
	// saveEvery is how often it is written, if it has changed.
	saveEvery = time.Minute
	// silent is how many recipients may be sent without one report before that is strange.
	silent = 10_000
)

// ReadRecord reads the Record of a state directory; the zero Record if there is none.
func ReadRecord(state string) (r Record, err error) {
	if state == "" {
		return r, nil
	}
	b, err := os.ReadFile(filepath.Join(state, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// Silence says that much was sent and that no report ever came back; "" if one did, or it is
// early.
func (r *Record) Silence() string {
	if !r.Last.IsZero() || r.Sent < silent {
		return ""
	}
	return fmt.Sprintf("%d recipients were sent to since %s, and no delivery report or complaint about that mail ever came by; "+
		"remedy: if the return path is read on another host, pipe what comes there to \"millrace feedback -\", with the same [feedback] key_file; "+
		"if it is read here, have port 25 ask the milter; sign up for the feedback loops of the receivers",
		r.Sent, r.Since.Local().Format(time.DateOnly))
}

// Delivery implements event.Listener: it counts what is sent until the first report.
func (a *Assessor) Delivery(d *event.Delivery) {
	if d.Status != event.Sent || d.Envelope == nil || d.Envelope.Origin != spool.Diverted {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := &a.record; r.Last.IsZero() {
		if r.Sent++; r.Since.IsZero() {
			r.Since = d.Time
		}
	}
}

// cameBack notes that a report about mail of ours came.
func (a *Assessor) cameBack(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.record.Last = now
}

// Record is what is counted.
func (a *Assessor) Record() Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.record
}

// save writes the Record now and then; at the zero time in any case. What a crash loses of
// it is a minute's count.
func (a *Assessor) save(now time.Time) {
	r := a.Record()
	if a.State == "" || r == a.saved.Record || !now.IsZero() && now.Sub(a.saved.at) < saveEvery {
		return
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = durable.Replace(filepath.Join(a.State, recordFile), append(b, '\n'))
	}
	if err != nil {
		a.Log.Warn("what was counted of reports is not saved", "err", err)
	}
	a.saved = saved{r, now}
}

// saved is the Record as it was written last.
type saved struct {
	Record
	at time.Time
}
