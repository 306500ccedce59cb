package control

import "fmt"

// Warmup is how far an address has come at a provider.
type Warmup struct {
	Address  string      `json:"address"` // an IPv6 /64 is one
	Queue    string      `json:"queue"`
	Plan     string      `json:"plan"`
	Shares   []int       `json:"shares"` // recipients of each of the plan's days
	Done     string      `json:"warm_since,omitempty"`
	Day      int         `json:"day"`   // of the plan, from 1; 0: the address is warm
	Share    int         `json:"share"` // of today
	Used     int         `json:"used"`  // of it, by now
	Lost     bool        `json:"lost,omitempty"`
	Reports  bool        `json:"complaints_known"` // some were seen from this provider
	HeldDays int         `json:"bad_days,omitempty"`
	Days     []WarmupDay `json:"days"` // the oldest first, today last
}

// WarmupDay is one day of a Warmup.
type WarmupDay struct {
	Date        string `json:"date"`
	Day         int    `json:"day"` // of the plan, from 1
	Share       int    `json:"share"`
	Used        int    `json:"used"` // recipients that were tried for the first time
	Accepted    int    `json:"accepted"`
	Refused     int    `json:"refused"` // tries, for reputation or volume
	HardBounces int    `json:"hard_bounces"`
	Complaints  int    `json:"complaints"`        // at this queue, about mail of all addresses
	Verdict     string `json:"verdict,omitempty"` // why the next day has no more; "" if it has, or the day is not over
	Bad         bool   `json:"bad,omitempty"`     // and that was not for want of mail
}

// Stays says why it has not come further today; "" if it has.
func (w *Warmup) Stays() string {
	if n := len(w.Days); w.Done == "" && n > 1 {
		return w.Days[n-2].Verdict
	}
	return ""
}

// InWords tells of it in a line.
func (w *Warmup) InWords() string {
	if w.Done != "" {
		return "warm since " + w.Done
	}
	text := fmt.Sprintf("day %d of %d: %d of %d recipients", w.Day, len(w.Shares), w.Used, w.Share)
	if w.Lost {
		text += "; nothing more today, as a file was damaged"
	}
	if why := w.Stays(); why != "" {
		text += "; " + why
	}
	return text
}
