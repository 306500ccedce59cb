package control

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// ShapeBy are what the rows of a Shape can be.
var ShapeBy = [...]string{"destination", "stream", "sender", "site", "queue"}

// Ages are the upper bounds of qshape's columns; the last column has no bound.
var Ages = [...]time.Duration{
	5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute,
	160 * time.Minute, 320 * time.Minute, 640 * time.Minute, 1280 * time.Minute,
}

// Shape is how old the recipients of one row are.
type Shape struct {
	Name  string             `json:"name"` // "" where there is none, as of mail whose domain has no way yet
	Total int                `json:"total"`
	ByAge [len(Ages) + 1]int `json:"by_age"` // younger than each of Ages and not counted before; the rest
}

// Add counts a recipient of an age.
func (s *Shape) Add(age time.Duration) {
	n := 0
	for n < len(Ages) && age >= Ages[n] {
		n++
	}
	s.Total++
	s.ByAge[n]++
}

func (s *Server) shape(w http.ResponseWriter, r *http.Request) {
	by := r.URL.Query().Get("by")
	f, err := readFilter(r.URL.Query())
	if err == nil && !slices.Contains(ShapeBy[:], by) {
		err = fmt.Errorf("by %q is none of %v", by, ShapeBy)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	list, err := s.backend.Shape(r.Context(), by, f)
	respond(w, list, err)
}

// Shape asks how old the selected recipients are (all for the empty filter), the row
// with most of them first; by is one of ShapeBy.
func (c *Client) Shape(ctx context.Context, by string, f Filter) (list []Shape, err error) {
	v := f.values()
	v.Set("by", by)
	err = c.call(ctx, http.MethodGet, "/v1/shape?"+v.Encode(), nil, &list)
	return list, err
}
