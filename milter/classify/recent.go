package classify

import "container/list"

// recent remembers something for each of a number of keys: when there are too many, the one
// that was asked for longest ago is forgotten. It is guarded by the lock of its owner.
type recent[V any] struct {
	most  int
	byKey map[string]*list.Element
	order *list.List // of *remembered[V], asked for last at the front
}

type remembered[V any] struct {
	key   string
	value V
}

func newRecent[V any](most int) recent[V] {
	return recent[V]{most: most, byKey: map[string]*list.Element{}, order: list.New()}
}

// at is what is remembered for a key, new if it is not known.
func (r *recent[V]) at(key string) *V {
	if e, ok := r.byKey[key]; ok {
		r.order.MoveToFront(e)
		return &e.Value.(*remembered[V]).value
	}
	if len(r.byKey) >= r.most {
		oldest := r.order.Back()
		delete(r.byKey, oldest.Value.(*remembered[V]).key)
		r.order.Remove(oldest)
	}
	x := &remembered[V]{key: key}
	r.byKey[key] = r.order.PushFront(x)
	return &x.value
}
