package control

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// DayTotals is what is counted of a day, in UTC.
type DayTotals struct {
	From   time.Time  `json:"from,omitzero"` // what is counted begins and ends there; zero: nothing is
	Until  time.Time  `json:"until,omitzero"`
	Totals []DayTotal `json:"totals"`
	// Examples are replies; there are none where attempts are not kept.
	Examples []DayExample `json:"examples,omitempty"`
	// Trouble is what is wrong with the outcomes now, so that counts may be missing; "" if
	// nothing is.
	Trouble string `json:"trouble,omitempty"`
}

// DayTotal is how many events of a day were alike. The names are those of the event file.
type DayTotal struct {
	Stream string `json:"stream,omitempty"`
	Queue  string `json:"queue,omitempty"`
	Site   string `json:"site,omitempty"`
	Event  string `json:"event"`
	Class  string `json:"class,omitempty"`
	N      int    `json:"n"`
}

// DayExample is what was answered to one of the deferrals, or of the bounces, of a class: of those
// who got the answer that came most often. Addresses in it have no local part.
type DayExample struct {
	Event string `json:"event"`
	Class string `json:"class"`
	Reply string `json:"reply"`
}

// day is the request for what is counted of a day.
func (s *Server) day() {
	s.mux.HandleFunc("GET /v1/day", func(w http.ResponseWriter, r *http.Request) {
		day, err := time.Parse(time.DateOnly, r.URL.Query().Get("day"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		d, err := s.backend.Day(r.Context(), day)
		respond(deadlineWriter{w}, d, err)
	})
}

// Day asks what is counted of a day.
func (c *Client) Day(ctx context.Context, day time.Time) (d DayTotals, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/day?day="+url.QueryEscape(day.Format(time.DateOnly)), nil, &d)
	return d, err
}
