package queue

// linked is embedded by what stands on a ring.
type linked[T any] struct {
	prev, next T
	on         bool
}

// node is a pointer type with links for one ring.
type node[T any] interface {
	comparable
	link() *linked[T]
}

// ring is a doubly linked list with the links in its elements: taking an
// element out of the middle costs nothing, and nothing is allocated.
type ring[T node[T]] struct {
	head, tail T
	n          int
}

func (r *ring[T]) first() (T, bool) { return r.head, r.n > 0 }

func (r *ring[T]) push(x T) {
	l := x.link()
	if l.on {
		return
	}
	var none T
	l.on, l.prev, l.next = true, r.tail, none
	if r.n == 0 {
		r.head = x
	} else {
		r.tail.link().next = x
	}
	r.tail = x
	r.n++
}

func (r *ring[T]) remove(x T) {
	l := x.link()
	if !l.on {
		return
	}
	var none T
	if l.prev == none {
		r.head = l.next
	} else {
		l.prev.link().next = l.next
	}
	if l.next == none {
		r.tail = l.prev
	} else {
		l.next.link().prev = l.prev
	}
	*l = linked[T]{}
	r.n--
}

// last moves an element to the end.
func (r *ring[T]) last(x T) {
	r.remove(x)
	r.push(x)
}

// rotate moves the first element to the end.
func (r *ring[T]) rotate() {
	if x, ok := r.first(); ok && r.n > 1 {
		r.last(x)
	}
}
