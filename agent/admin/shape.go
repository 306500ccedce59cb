package admin

import (
	"cmp"
	"context"
	"slices"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/queue"
)

// Shape implements control.Backend. Senders count by their domain, as with qshape -s.
func (b *Backend) Shape(ctx context.Context, by string, f control.Filter) ([]control.Shape, error) {
	sel, err := b.selection(ctx, f)
	if err != nil {
		return nil, err
	}
	row := map[string]func(*queue.Entry) string{
		"destination": func(e *queue.Entry) string { return e.Domain },
		"stream":      func(e *queue.Entry) string { return e.Stream },
		"site":        func(e *queue.Entry) string { return e.Site },
		"queue":       func(e *queue.Entry) string { return e.Queue },
		"sender":      sel.SenderDomain,
	}[by]
	all := make(map[string]*control.Shape)
	b.queue.List(func(page []queue.Entry) bool {
		for i := range page {
			e := &page[i]
			if !sel.Selects(e) {
				continue
			}
			name := row(e)
			if all[name] == nil {
				all[name] = &control.Shape{Name: name}
			}
			all[name].Add(sel.Now.Sub(e.Born))
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
