package lease

import (
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// world is one history: nodes, a store and a network of which everything goes wrong that may. Time
// is in milliseconds. After every event the sums are checked.
type world struct {
	r       *rand.Rand
	now     int64
	queue   events
	seq     int
	nodes   []*host
	store   *Store
	up      bool
	paused  bool
	waiting []func() // calls at a store that is paused
	copies  []*Store
	unique  int
	keys    []shared
	retired map[string]int64 // counts of those that are no more
	fleet   int              // Options.Nodes
	founded bool
	calm    bool // nothing goes wrong on the network
	mild    bool // and little else does but that nodes come and go
	changed bool
	wrong   string
	trace   []string
	verbose bool
	call    string                              // something unique of the call that is executed
	each    func(empty bool, c *Call, r *Reply) // sees each call, nil: nobody; then no old copies come back
	lent    int                                 // moments at which somebody had more than its floor
	active  int                                 // moments at which somebody had a floor
	spent   int64
	shrunk  int // floors that grew
	told    int // nodes heard that they were forgotten
}

// shared is a limit that the nodes have in common.
type shared struct {
	kind   Kind
	key    string
	day    string
	limits []int64 // by node
	most   int64   // ever
	differ int64   // until when what was lent while they differed may count: a lease longer
}

type host struct {
	w       *world
	i       int
	name    string
	m       *Member // nil: down
	id      string  // of its state file
	file    []byte
	badDisk bool
	boot    int64 // of BOOTTIME 0
	cut     bool
	stopped bool
	ticks   int
	later   []func() // what has come for a process that is stopped
	wants   []int64  // by key
	using   []int64  // by key: sessions, which outlive what they were begun under
	counts  map[string]int64
	gone    bool // left or forgotten: starts again without its file
	back    bool // forgotten: starts again with its file
	patient bool
}

type event struct {
	at  int64
	seq int
	do  func()
}
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

func (w *world) in(ms int64, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + ms, w.seq, do})
}

func (w *world) log(format string, args ...any) {
	if w.verbose {
		w.trace = append(w.trace, fmt.Sprintf("%9.3f ", float64(w.now)/1000)+fmt.Sprintf(format, args...))
	}
}

// newWorld has n nodes, of which none is up.
func newWorld(seed uint64, n int) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 27)), up: true, retired: make(map[string]int64)}
	w.store = &Store{Unique: func() string { return w.call }}
	w.store.Run = w.serial()
	for i := range n {
		w.nodes = append(w.nodes, &host{w: w, i: i, name: string(rune('a' + i)), boot: -w.r.Int64N(1e9), counts: make(map[string]int64)})
	}
	return w
}

func (w *world) serial() string {
	w.unique++
	return fmt.Sprint(w.unique)
}

func (w *world) share(kind Kind, key, day string, limit int64) {
	s := shared{kind: kind, key: key, day: day, most: limit}
	for _, h := range w.nodes {
		s.limits = append(s.limits, limit)
		h.wants, h.using = append(h.wants, 0), append(h.using, 0)
	}
	w.keys = append(w.keys, s)
}

func (h *host) start() {
	if h.gone {
		h.lose()
	}
	h.gone, h.stopped, h.later = false, false, nil
	clear(h.using)
	o := Options{Fleet: "f", Node: h.name, Nodes: h.w.fleet, Boot: func() time.Duration {
		return time.Duration(h.w.now-h.boot) * time.Millisecond
	}}
	h.m = begin(h.name, h.file, o)
	if h.m.table.Version == "" {
		h.m.id = h.name + h.w.serial() // the same in each run of a seed
	}
	h.id = h.m.id
	w := h.w
	h.m.replace = func(_ string, text []byte) error {
		if h.badDisk && w.r.IntN(2) == 0 {
			return errors.New("no space")
		}
		h.file = text
		if h.badDisk {
			return errors.New("the directory cannot be synced")
		}
		return nil
	}
	if m := h.m; h.back && m.doubts {
		// Without a store's word it would use what it had: that cannot be helped, and is no history.
		w.in(Doubt.Milliseconds()-1, func() {
			if h.m == m && m.doubts {
				h.stop()
			}
		})
	}
	w.log("%s starts, state %.80s", h.name, h.file)
	w.changed = true
	h.wake(0)
}

// wake has the node's loop go on after so many milliseconds, and not before.
func (h *host) wake(ms int64) {
	h.ticks++
	m, n := h.m, h.ticks
	h.w.in(ms, func() {
		if h.ticks == n {
			h.tick(m)
		}
	})
}

// lose takes the state file away and what was counted. The store knows the counts, or nobody does.
func (h *host) lose() {
	for i := range h.w.keys {
		k := &h.w.keys[i]
		if n := h.counts[k.key+k.day]; n > 0 {
			if h.w.store.recs[subject{k.kind, k.key, k.day}.field()].parts[h.id].hold >= n {
				h.w.retired[k.key+k.day] += n
			}
		}
	}
	h.file, h.counts = nil, make(map[string]int64)
}

// forgotten has the node off, as far as the others know; with its file it comes back as if
// nothing had been, but for what it had counted.
func (h *host) forgotten(back bool) {
	var f file
	if !back || json.Unmarshal(h.file, &f) != nil || !f.Active {
		h.gone = true
		h.lose()
		return
	}
	h.lose()
	f.ID = h.name + h.w.serial()
	h.file, _ = json.Marshal(f)
	h.back = true
}

func (h *host) stop() {
	h.m, h.stopped, h.later = nil, false, nil
	h.w.log("%s is down", h.name)
}

// tick is the node's loop.
func (h *host) tick(m *Member) {
	if h.m != m {
		return
	}
	if h.stopped {
		h.later = append(h.later, func() { h.tick(m) })
		return
	}
	w := h.w
	if w.fleet != len(w.nodes) && !w.founded && h.i == 0 {
		m.Found()
	}
	var list []Demand
	for i := range w.keys {
		k := &w.keys[i]
		d := Demand{Key: k.key, Kind: k.kind, Day: k.day, Limit: float64(k.limits[h.i]), Want: float64(h.wants[i])}
		switch {
		case k.kind == Rate:
			d.Limit, d.Want = d.Limit/1000, d.Want/1000
		case k.kind == Count:
			if h.wants[i] == 0 && h.counts[k.key+k.day] == 0 {
				continue
			}
			d.Used = h.counts[k.key+k.day]
		case k.kind == Sessions && !w.calm:
			may := int64(m.Sessions(k.key, int(k.limits[h.i])))
			switch (w.now/3000 + int64(3*i+h.i)) % 5 {
			case 0, 1:
				h.using[i] = max(h.using[i], may)
			case 3:
				h.using[i] /= 2
			case 4:
				h.using[i] = min(h.using[i], may)
			}
			d.Used = h.using[i]
		}
		list = append(list, d)
	}
	m.Want(list)
	if due := m.Due(); h.boottime() >= due {
		if c := m.Call(); c != nil {
			h.send(m, c)
		}
	}
	next := max(1, int64((m.Due()-h.boottime())/time.Millisecond))
	if m.call != nil || m.left {
		next = 2500
	}
	h.wake(min(next, 2500))
}

func (h *host) boottime() time.Duration {
	return time.Duration(h.w.now-h.boot) * time.Millisecond
}

func (w *world) delay() int64 {
	if w.calm {
		return 1 + w.r.Int64N(20)
	}
	switch x := w.r.IntN(100); {
	case x < 80:
		return 1 + w.r.Int64N(50)
	case x < 92:
		return w.r.Int64N(5000)
	case x < 97:
		return w.r.Int64N(60_000)
	}
	return w.r.Int64N(400_000)
}

func (w *world) lost() bool { return !w.calm && w.r.IntN(20) == 0 }

func (h *host) send(m *Member, c *Call) {
	w := h.w
	if w.verbose {
		w.log("%s calls %+v", h.name, *c)
	}
	patience := int64(3000)
	if h.patient && !w.calm {
		patience = 100_000
	}
	w.in(patience, func() { h.arrive(m, c, nil) })
	if h.cut {
		return
	}
	for n := 0; n == 0 || !w.calm && w.r.IntN(25) == 0; n++ {
		if w.lost() {
			continue
		}
		w.in(w.delay(), func() { w.execute(h, m, c) })
	}
}

func (w *world) execute(h *host, m *Member, c *Call) {
	switch {
	case !w.up:
		if w.r.IntN(4) > 0 { // else it comes through when the store is up again
			return
		}
		w.in(w.r.Int64N(60_000), func() { w.execute(h, m, c) })
	case w.paused:
		w.waiting = append(w.waiting, func() { w.execute(h, m, c) })
	default:
		w.call = w.serial()
		empty := w.store.state == nil
		var before state
		if !empty {
			before = *w.store.state
		}
		r := w.store.Do(c)
		if st := w.store.state; st.epoch == before.epoch && st.divisor < before.divisor {
			w.shrunk++
		}
		if w.each != nil {
			w.each(empty, c, r)
		}
		w.founded = w.founded || r.Table.Version != ""
		if w.verbose {
			w.log("store executes %s's %d: %+v", c.Node, c.N, *r)
		}
		if w.lost() || h.cut {
			return
		}
		w.in(w.delay(), func() { h.arrive(m, c, r) })
	}
}

// arrive is a reply, or nil when it was waited for long enough.
func (h *host) arrive(m *Member, c *Call, r *Reply) {
	if h.m != m {
		return
	}
	if h.stopped {
		h.later = append(h.later, func() { h.arrive(m, c, r) })
		return
	}
	if m.call != c {
		m.Done(c, r, nil) // which is thrown away
		return
	}
	if r == nil {
		m.Done(c, nil, errors.New("timeout"))
		h.wake(0)
		return
	}
	m.Done(c, r, nil)
	if h.back && m.forgot {
		h.w.told++
	}
	h.back = h.back && (m.doubts || !m.active)
	h.w.log("%s has reply %d %s", h.name, c.N, r.Why)
	h.w.changed = true
	h.spend()
	h.wake(0)
}

// spend counts, as far as it may.
func (h *host) spend() {
	if h.m == nil || h.stopped {
		return
	}
	w := h.w
	for i := range w.keys {
		k := &w.keys[i]
		if k.kind != Count || h.wants[i] == 0 {
			continue
		}
		id := k.key + k.day
		n := min(w.r.Int64N(h.wants[i]+1), int64(h.m.Bound(k.key, k.day, int(k.limits[h.i])))-h.counts[id])
		if n > 0 {
			h.counts[id] += n
			w.spent += n
			w.changed = true
		}
	}
}

// check compares what all may be using with the limits.
func (w *world) check() {
	for i := range w.keys {
		k := &w.keys[i]
		var sum, most int64
		least, live := int64(1<<60), int64(0)
		var uses [8]int64
		for _, h := range w.nodes {
			var use int64
			if k.kind == Count {
				use = h.counts[k.key+k.day]
			} else if h.m != nil {
				limit := k.limits[h.i]
				if k.kind == Rate {
					use = thousandths(h.m.Rate(k.key, float64(limit)/1000) + 0.0001)
				} else {
					use = int64(h.m.Sessions(k.key, int(limit)))
				}
				own := h.m.floor(limit)
				if own > 0 {
					w.active++
				}
				if use > own {
					w.lent++
				}
				most, least = max(most, limit), min(least, limit)
				live++
			}
			sum += use
			uses[h.i] = use
		}
		switch {
		case k.kind == Count:
			sum += w.retired[k.key+k.day]
			most = k.most
		case live > 0 && (least < most || w.now < k.differ):
			if least < most {
				k.differ = w.now + storeLease
			}
			most += live - 1 // that much of what cannot be divided, while they do not agree
		}
		if sum > most && w.wrong == "" {
			w.wrong = fmt.Sprintf("%d ms: %s%s: %d in use of %d: %s", w.now, k.key, k.day, sum, most, fmt.Sprint(uses[:len(w.nodes)]))
			w.log("WRONG %s", w.wrong)
		}
	}
}

// run goes on until that time, or until something is wrong.
func (w *world) run(until int64) {
	for len(w.queue) > 0 && w.wrong == "" && w.queue[0].at <= until {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
		if w.changed { // more may be in use only then
			w.changed = false
			w.check()
		}
	}
	if w.wrong == "" {
		w.now = until
	}
}

// storeLoses is a restart or failover with other data than there were.
func (w *world) storeLoses(data *Store) {
	clear(w.retired)
	w.store = data
	w.store.Run = w.serial()
	w.up = true
}

// trouble is one thing that goes wrong, or is done by an admin.
func (w *world) trouble() {
	h := w.nodes[w.r.IntN(len(w.nodes))]
	what := w.r.IntN(28)
	if w.mild {
		what = []int{0, 0, 2, 4, 5, 8, 9, 12, 13, 16, 19, 19, 21, 21, 21}[w.r.IntN(15)]
	}
	switch what {
	case 0, 1:
		if h.m == nil {
			h.start()
		} else {
			h.stop()
		}
	case 2: // a restart
		h.stop()
		h.start()
	case 3: // and the host's
		h.stop()
		h.boot = w.now - w.r.Int64N(1e6)
		h.start()
	case 4: // without its state
		h.lose()
		h.stop()
		if w.r.IntN(2) == 0 {
			h.start()
		}
	case 5, 6:
		h.cut = !h.cut
		w.log("%s cut: %v", h.name, h.cut)
	case 7:
		if h.m != nil && !h.stopped {
			h.stopped = true
			w.log("%s stopped", h.name)
			w.in(w.r.Int64N(200_000), func() {
				if !h.stopped {
					return
				}
				h.stopped = false
				w.log("%s goes on", h.name)
				todo := h.later
				h.later = nil
				if w.r.IntN(2) == 0 {
					w.r.Shuffle(len(todo), func(i, j int) { todo[i], todo[j] = todo[j], todo[i] })
				}
				for _, do := range todo {
					do()
				}
			})
		}
	case 8, 26:
		if h.m != nil && !h.stopped {
			w.log("%s leaves", h.name)
			if c, err := h.m.Leave(); err == nil {
				h.gone = true
				h.lose() // nobody tells a store that loses it of this count again
				if c != nil {
					h.send(h.m, c)
				}
			}
		}
	case 9, 27: // whoever is forgotten is off
		if h.gone {
			break
		}
		h.stop()
		for _, by := range w.nodes {
			if by.m != nil && !by.stopped {
				w.log("%s forgets %s", by.name, h.name)
				by.m.Forget(h.name)
				h.forgotten(w.r.IntN(2) == 0)
				break
			}
		}
	case 10:
		h.badDisk = !h.badDisk
	case 11:
		w.up = !w.up
		w.log("store up: %v", w.up)
		if w.up && w.r.IntN(2) == 0 {
			w.store.Run = w.serial()
			w.log("as another, with all data")
		}
	case 12:
		w.storeLoses(&Store{Unique: func() string { return w.call }})
		w.log("store empty")
	case 13:
		if len(w.copies) > 0 && w.each == nil {
			w.storeLoses(w.copies[w.r.IntN(len(w.copies))].Clone())
			w.log("store is an old copy")
		}
	case 14:
		w.store.state, w.store.recs = nil, nil // FLUSHALL
		clear(w.retired)
		w.log("store flushed")
	case 15:
		w.paused = !w.paused
		if !w.paused {
			todo := w.waiting
			w.waiting = nil
			for _, do := range todo {
				do()
			}
		}
		w.log("store paused: %v", w.paused)
	case 16, 17:
		w.copies = append(w.copies, w.store.Clone())
	case 18:
		k := &w.keys[w.r.IntN(len(w.keys))]
		limit := max(1, k.limits[h.i]*(1+w.r.Int64N(6))/3)
		k.most = max(k.most, limit)
		for _, n := range w.nodes { // one after the other
			n := n
			w.in(w.r.Int64N(60_000), func() { k.limits[n.i], w.changed = limit, true })
		}
	case 19: // the network is whole, and the store up
		for _, n := range w.nodes {
			n.cut = false
		}
		w.up = true
	case 20:
		h.patient = !h.patient
	default:
		i := w.r.IntN(len(w.keys))
		h.wants[i] = w.r.Int64N(w.keys[i].limits[h.i] + 2)
		if w.r.IntN(3) == 0 {
			h.wants[i] = 0
		}
	}
}

// history is a random one, with nodes of seed's number and pace.
func history(seed uint64, set func(*world)) *world {
	n := 2 + int(seed%5)
	w := newWorld(seed, n)
	set(w)
	if w.r.IntN(3) == 0 {
		w.fleet = n + w.r.IntN(2)
	}
	w.share(Sessions, "x", "", 1+w.r.Int64N(int64(2*n)))
	w.share(Sessions, "y", "", 1+w.r.Int64N(40))
	w.share(Rate, "z", "", 1+w.r.Int64N(20_000))
	w.share(Count, "q", "1", 1+w.r.Int64N(200))
	w.share(Count, "q", "2", 1+w.r.Int64N(50))
	for _, h := range w.nodes {
		if w.r.IntN(4) > 0 {
			w.in(w.r.Int64N(20_000), func() {
				if h.m == nil {
					h.start()
				}
			})
		}
		for i := range w.keys {
			h.wants[i] = w.r.Int64N(w.keys[i].limits[h.i] + 2)
		}
	}
	pace := []int64{4000, 15_000, 60_000}[w.r.IntN(3)]
	w.calm = w.r.IntN(2) == 0 // to get further
	w.mild = w.calm && w.r.IntN(3) > 0
	var chaos func()
	chaos = func() {
		w.trouble()
		w.in(1+w.r.Int64N(2*pace), chaos)
	}
	w.in(w.r.Int64N(90_000), chaos)
	w.run(400_000)
	return w
}
