package control

import (
	"context"
	"net/http"
)

// MilterReport is what the milter tells the agent every second, so that the agent
// leaves room for the host's own mail and one scrape of it shows both daemons.
type MilterReport struct {
	// HostMail are recipients left with the host MTA since the last report, by
	// domain.
	HostMail map[string]int `json:"host_mail,omitempty"`
	// The others count from the milter's start, so that a lost report loses nothing.
	MilterCounts
}

// MilterCounts are the milter's counts since its start.
type MilterCounts struct {
	Messages    map[string]uint64 `json:"messages"`             // by verdict
	OneFamily   map[string]uint64 `json:"one_family,omitempty"` // left, as their evidence of bulk was of one family alone; by family
	Recipients  uint64            `json:"recipients"`           // diverted
	Connections uint64            `json:"connections"`          // of the host MTA
	Reports     map[string]uint64 `json:"reports,omitempty"`    // that may be about our mail, by what became of them
	Inlet       map[string]uint64 `json:"inlet,omitempty"`      // its messages, by what became of them
}

// MilterAnswer is what the milter hears.
type MilterAnswer struct {
	// InletKnown says that the host's settings were looked at for the inlet, with the
	// configuration that the agent has now. InletBypassed is what mail of the inlet would
	// pass by that nobody has accepted, "" if nothing.
	InletKnown    bool   `json:"inlet_known,omitempty"`
	InletBypassed string `json:"inlet_bypassed,omitempty"`
}

func (s *Server) milter() {
	b := s.backend
	s.mux.HandleFunc("POST /v1/milter", func(w http.ResponseWriter, r *http.Request) {
		var report MilterReport
		if decodeReport(w, r, &report) {
			respond(w, b.Milter(report), nil)
		}
	})
}

// Milter gives the agent the milter's report. The answer of an earlier agent is empty.
func (c *Client) Milter(ctx context.Context, r MilterReport) (answer MilterAnswer, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/milter", r, &answer)
	return answer, err
}
