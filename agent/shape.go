package agent

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
)

// Shape implements control.Backend. Senders count by their domain, as with qshape -s.
func (a *Agent) Shape(ctx context.Context, by string, f control.Filter) ([]control.Shape, error) {
	sel := a.selection(f)
	row := map[string]func(*queue.Entry) string{
		"destination": func(e *queue.Entry) string { return e.Domain },
		"stream":      func(e *queue.Entry) string { return e.Stream },
		"site":        func(e *queue.Entry) string { return e.Site },
		"queue":       func(e *queue.Entry) string { return e.Queue },
		"sender":      sel.senderDomain,
	}[by]
	all := make(map[string]*control.Shape)
	a.queue.List(func(page []queue.Entry) bool {
		for i := range page {
			e := &page[i]
			if !sel.selects(e) {
				continue
			}
			name := row(e)
			if all[name] == nil {
				all[name] = &control.Shape{Name: name}
			}
			all[name].Add(sel.now.Sub(e.Born))
		}
		return ctx.Err() == nil
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list := make([]control.Shape, 0, len(all))
	for _, s := range all {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b control.Shape) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Name, b.Name))
	})
	return list, nil
}

// senderDomain is the domain of an entry's sender, in lower case.
func (s *selection) senderDomain(e *queue.Entry) string {
	env := s.envelope(e.ID)
	if env == nil {
		return "" // done since the page was read
	}
	if env.Sender == "" {
		return "MAILER-DAEMON"
	}
	return strings.ToLower(env.Sender[strings.LastIndexByte(env.Sender, '@')+1:])
}
