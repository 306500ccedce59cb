package exchange

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/fleet/order"
	"github.com/millrace/millrace/contrib/lab/fleetca"
)

// The model runs random histories of a fleet of two to four nodes, with real Logs and real
// Exchanges over a store that loses, repeats, delays, reorders, withholds, forges, forgets, or is
// away; some nodes call each other directly. Time is the model's. After each step it holds that
//
//   - a pause that a node has heard of stands there, unless its time is over or the node has heard
//     of a resume that names it; and a resume names only what stood where it was issued;
//   - no cancel ends mail that came after it was issued, or a day after it.
//
// At the end the store is honest, all are connected, and all nodes must come to the same pauses:
// those that any of them, or the store, had then and no resume that any had names.

func TestNoHistoryForgetsAPauseOrCancelsLaterMail(t *testing.T) {
	t.Parallel()
	ca, other := fleetca.New(t), fleetca.New(t)
	certs := map[string]*tls.Certificate{}
	for _, name := range names {
		certs[name] = ca.Node(t, name)
	}
	total := map[string]int{}
	for seed := range uint64(seeds) {
		w := newWorld(t, seed, ca, other, certs)
		if !w.run() {
			t.Fatalf("history %d", seed)
		}
		for what, n := range w.seen {
			total[what] += n
		}
	}
	// What a history is for must have happened, or the test shows nothing.
	for _, what := range []string{"pause", "resume", "cancel", "cancelled", "partition", "restart", "fresh", "torn", "empty", "old", "trim", "withhold", "forge", "repeat", "away", "refused", "survived"} {
		if total[what] == 0 {
			t.Errorf("never happened: %s (%v)", what, total)
		}
	}
}

var names = []string{"a", "b", "c", "d"}

const fleetName = "f"

// world is one history.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	now   time.Time
	nodes []*member
	store *hostile
	seen  map[string]int // what happened
	ca    *fleetca.CA
	forge *order.Log // of somebody without a certificate of the fleet

	pauses  map[order.ID]time.Time  // until when; zero: for good
	resumes map[order.ID][]order.ID // what they name
	cancels map[order.ID]cancel
}

// cancel is one that was issued.
type cancel struct {
	at      time.Time // true time
	arrived map[string]uint64
}

// member is a node of a history.
type member struct {
	w     *world
	name  string
	skew  time.Duration
	cert  *tls.Certificate
	disk  *memory
	log   *order.Log
	x     *Exchange
	cut   bool // from the store
	heard map[order.ID]bool

	mail  uint64 // number of the last that came
	queue []uint64
}

// memory is a disk that outlives a restart.
type memory struct {
	kept []byte
	torn bool // the next append is cut short, and the node dies of it
}

var errTorn = errors.New("power failed")

func (m *memory) Read() ([]byte, error) { return slices.Clone(m.kept), nil }

func (m *memory) Append(b []byte) error {
	if m.torn {
		m.torn = false
		m.kept = append(m.kept, b[:len(b)/2]...)
		return errTorn
	}
	m.kept = append(m.kept, b...)
	return nil
}

func (m *memory) Replace(b []byte) error {
	if m.torn {
		m.torn = false
		return errTorn
	}
	m.kept = slices.Clone(b)
	return nil
}

func newWorld(t *testing.T, seed uint64, ca, other *fleetca.CA, certs map[string]*tls.Certificate) *world {
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 27)), now: time.Now(), seen: map[string]int{}, ca: ca,
		pauses: map[order.ID]time.Time{}, resumes: map[order.ID][]order.ID{}, cancels: map[order.ID]cancel{},
	}
	w.store = &hostile{w: w, reports: map[string][]byte{}}
	for _, name := range names[:2+w.rnd.IntN(3)] {
		n := &member{w: w, name: name, cert: certs[name], disk: &memory{}, skew: time.Duration(w.rnd.IntN(601)-300) * time.Second, heard: map[order.ID]bool{}}
		n.start()
		w.nodes = append(w.nodes, n)
	}
	w.forge = must(order.Open(order.Options{Fleet: fleetName, Node: "a", Certificate: fleetcaNode(other, t), Roots: other.Roots, Log: slog.New(slog.DiscardHandler)}))
	return w
}

var foreign *tls.Certificate

func fleetcaNode(ca *fleetca.CA, t *testing.T) *tls.Certificate {
	if foreign == nil {
		foreign = ca.Node(t, "a")
	}
	return foreign
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (n *member) clock() time.Time { return n.w.now.Add(n.skew) }

func (n *member) start() {
	n.log = must(order.Open(order.Options{
		Fleet: fleetName, Node: n.name, Certificate: n.cert, Roots: n.w.ca.Roots, Log: slog.New(slog.DiscardHandler), Now: n.clock, Disk: n.disk,
	}))
	n.x = New(Options{Log: n.log, Fleet: fleetName, Logger: slog.New(slog.DiscardHandler), now: n.clock, Position: func() string { return strconv.FormatUint(n.mail, 10) }})
	n.x.store = &line{n}
}

// line is a node's connection to the store.
type line struct{ n *member }

var errAway = errors.New("the store is away")

func (l *line) err() error {
	if l.n.cut || l.n.w.store.away {
		l.n.w.seen["away"]++
		return errAway
	}
	return nil
}

func (l *line) add(_ context.Context, lines [][]byte) error {
	if err := l.err(); err != nil {
		return err
	}
	for _, x := range lines {
		l.n.w.store.add(x)
	}
	if l.n.w.rnd.IntN(20) == 0 {
		return errAway // done, and the answer is lost
	}
	return nil
}

func (l *line) read(_ context.Context, after string) (lines [][]byte, last string, err error) {
	if err := l.err(); err != nil {
		return nil, "", err
	}
	lines, last = l.n.w.store.read(after)
	l.n.hear(lines)
	return lines, last, nil
}

func (l *line) end(context.Context) (string, error) {
	if err := l.err(); err != nil {
		return "", err
	}
	return l.n.w.store.end(), nil
}

func (l *line) report(_ context.Context, node string, b []byte) error {
	if err := l.err(); err != nil {
		return err
	}
	s := l.n.w.store
	if s.old == nil || s.w.rnd.IntN(4) == 0 {
		s.old = maps.Clone(s.reports)
	}
	s.reports[node] = b
	return nil
}

func (l *line) list(context.Context) (list [][]byte, err error) {
	if err := l.err(); err != nil {
		return nil, err
	}
	s := l.n.w.store
	all := s.reports
	if s.bad && s.old != nil && s.w.rnd.IntN(2) == 0 {
		all = s.old
		s.w.seen["old report"]++
	}
	for _, node := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[node])
	}
	if s.bad && s.w.rnd.IntN(4) == 0 {
		list = append(list, must(s.w.forge.Report("1000000000", "")))
	}
	return list, nil
}

// hear notes what orders come to a node. Those of nobody it must not take.
func (n *member) hear(lines [][]byte) {
	for _, x := range lines {
		id, ok := order.IDOf(x)
		if _, real := n.w.known(id); ok && real {
			n.heard[id] = true
		}
	}
}

func (w *world) known(id order.ID) (struct{}, bool) {
	_, a := w.pauses[id]
	_, b := w.resumes[id]
	_, c := w.cancels[id]
	return struct{}{}, a || b || c
}

// hostile is the store.
type hostile struct {
	w       *world
	entries [][]byte
	first   int // number of entries[0]
	all     [][]byte
	reports map[string][]byte
	old     map[string][]byte
	away    bool
	bad     bool
}

func (s *hostile) add(x []byte) {
	s.all = append(s.all, x)
	if s.bad && s.w.rnd.IntN(4) == 0 {
		s.w.seen["withhold"]++
		return
	}
	s.entries = append(s.entries, x)
	if s.w.rnd.IntN(10) == 0 {
		s.entries = append(s.entries, x)
	}
}

func (s *hostile) end() string { return fmt.Sprintf("%d-0", s.first+len(s.entries)) }

func (s *hostile) read(after string) (lines [][]byte, last string) {
	at, _ := parse(after)
	for i := max(0, int(at)-s.first); i < len(s.entries) && len(lines) < 5; i++ {
		lines = append(lines, s.entries[i])
		last = fmt.Sprintf("%d-0", s.first+i+1)
	}
	if last == "" {
		last = after
	}
	if s.w.rnd.IntN(3) == 0 {
		s.w.rnd.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	}
	if s.bad && len(lines) > 0 {
		switch s.w.rnd.IntN(5) {
		case 0: // lost, though it counts as read
			s.w.seen["withhold"]++
			lines = lines[1:]
			if len(lines) == 0 {
				lines = [][]byte{[]byte("junk")}
			}
		case 1:
			s.w.seen["forge"]++
			lines = append(lines, s.forged())
		case 2:
			if len(s.all) > 0 {
				s.w.seen["repeat"]++
				lines = append(lines, s.all[s.w.rnd.IntN(len(s.all))])
			}
		}
	}
	return lines, last
}

// forged is an order that no node has issued: by a stranger, or a true one that was changed.
func (s *hostile) forged() []byte {
	if len(s.all) == 0 || s.w.rnd.IntN(2) == 0 {
		id := must(s.w.forge.Issue("", order.Lift, nil, time.Time{}, slices.Collect(maps.Keys(s.w.pauses))...))
		for _, x := range s.w.forge.Lacking(&order.Report{}, true, 1000) {
			if got, _ := order.IDOf(x); got == id {
				return x
			}
		}
	}
	var x order.Signed
	var o order.Order
	if json.Unmarshal(s.all[s.w.rnd.IntN(len(s.all))], &x) != nil || json.Unmarshal(x.Text, &o) != nil {
		return []byte("junk")
	}
	o.ID.Number += 1000
	o.Lifts = slices.Collect(maps.Keys(s.w.pauses))
	o.Kind = order.Lift
	x.Text = must(json.Marshal(&o))
	return must(json.Marshal(&x))
}

// trouble changes what the store is.
func (s *hostile) trouble() {
	switch s.w.rnd.IntN(7) {
	case 0:
		s.w.seen["empty"]++
		s.entries, s.reports, s.first = nil, map[string][]byte{}, 0
	case 1, 2:
		if n := len(s.entries); n > 1 { // failed over to a copy that lags behind
			s.w.seen["old"]++
			s.entries = s.entries[:s.w.rnd.IntN(n)]
		}
	case 3:
		if n := len(s.entries); n > 2 {
			s.w.seen["trim"]++
			s.entries, s.first = s.entries[n/2:], s.first+n/2
		}
	case 4:
		s.away = !s.away
	default:
		s.bad = !s.bad
	}
}

func (w *world) run() bool {
	for range 40 + w.rnd.IntN(60) {
		w.step()
		if !w.holds() {
			return false
		}
	}
	return w.merge()
}

func (w *world) step() {
	n := w.nodes[w.rnd.IntN(len(w.nodes))]
	w.now = w.now.Add(time.Duration(w.rnd.IntN(6000)) * time.Millisecond)
	if w.rnd.IntN(100) == 0 {
		w.now = w.now.Add(time.Duration(w.rnd.IntN(30)) * time.Hour)
	}
	switch p := w.rnd.IntN(100); {
	case p < 12:
		n.pause()
	case p < 20:
		n.resume()
	case p < 24:
		n.cancelAll()
	case p < 34:
		n.mail++
		n.queue = append(n.queue, n.mail)
	case p < 40:
		w.store.trouble()
	case p < 44:
		n.cut = !n.cut
		w.seen["partition"]++
	case p < 47:
		w.seen["restart"]++
		n.start()
	case p < 48:
		w.seen["fresh"]++
		n.disk, n.heard = &memory{}, map[order.ID]bool{}
		n.start()
	case p < 50:
		n.crash()
	case p < 54:
		n.call(w.nodes[w.rnd.IntN(len(w.nodes))])
	default:
		n.turn()
	}
}

// turn is what Run does.
func (n *member) turn() {
	_ = n.x.follow(context.Background())
	n.x.turn(context.Background())
	n.doCancels()
}

// call brings orders directly, and loses the answer now and then.
func (n *member) call(to *member) {
	if to == n {
		return
	}
	lines := n.log.Lacking(&order.Report{}, false, most)
	to.hear(lines)
	answer := must(to.x.Take(must(json.Marshal(message{Orders: raw(lines), Report: must(n.x.ownReport())}))))
	if n.w.rnd.IntN(3) > 0 {
		_ = n.log.TakeReport(answer)
	}
}

func (n *member) pause() {
	n.w.seen["pause"]++
	until := time.Time{}
	if n.w.rnd.IntN(4) == 0 {
		until = n.w.now.Add(time.Duration(n.w.rnd.IntN(40)) * time.Hour)
	}
	key := fmt.Sprintf("stream %d", n.w.rnd.IntN(4))
	var lifts []order.ID
	if n.w.rnd.IntN(3) == 0 { // in place of one of the same filter
		lifts = n.on(key)
	}
	id := must(n.log.Issue("", order.Pause, key, until, lifts...))
	n.heard[id], n.w.pauses[id] = true, until
	if len(lifts) > 0 {
		n.w.resumes[id] = lifts
	}
}

// on are the pauses that stand here for a key.
func (n *member) on(key string) (ids []order.ID) {
	for _, o := range n.log.Live(order.Pause) {
		if string(o.Body) == strconv.Quote(key) {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

func (n *member) resume() {
	lifts := n.on(fmt.Sprintf("stream %d", n.w.rnd.IntN(4)))
	if len(lifts) == 0 {
		return
	}
	n.w.seen["resume"]++
	id := must(n.log.Issue("", order.Lift, nil, time.Time{}, lifts...))
	n.heard[id], n.w.resumes[id] = true, lifts
}

// crash loses power while an order is written: nobody has heard of it.
func (n *member) crash() {
	n.w.seen["torn"]++
	n.disk.torn = true
	if _, err := n.log.Issue("", order.Pause, "torn", time.Time{}); err == nil {
		n.w.t.Errorf("history: written to a disk without power")
	}
	n.start()
}

func (n *member) cancelAll() {
	n.w.seen["cancel"]++
	reach := map[string]string{n.name: strconv.FormatUint(n.mail, 10)}
	for node, r := range n.log.Reports() {
		reach[node] = r.Position
	}
	arrived := map[string]uint64{}
	for _, m := range n.w.nodes {
		arrived[m.name] = m.mail
	}
	id := must(n.log.Issue("", order.Cancel, reach, time.Time{}))
	n.heard[id], n.w.cancels[id] = true, cancel{n.w.now, arrived}
	n.doCancels()
}

func (n *member) doCancels() {
	for _, o := range n.log.Pending(order.Cancel) {
		var reach map[string]string
		if err := json.Unmarshal(o.Body, &reach); err != nil {
			n.w.t.Error(err)
		}
		to, _ := strconv.ParseUint(reach[n.name], 10, 64)
		c, real := n.w.cancels[o.ID]
		if !real {
			n.w.t.Errorf("a cancel that nobody issued: %v", o.ID)
		}
		if age := n.w.now.Sub(c.at); age > order.CancelFor+11*time.Minute {
			n.w.t.Errorf("a cancel of %s ago is obeyed", age)
		}
		n.queue = slices.DeleteFunc(n.queue, func(m uint64) bool {
			if m > to {
				n.w.seen["survived"]++
				return false
			}
			n.w.seen["cancelled"]++
			if m > c.arrived[n.name] {
				n.w.t.Errorf("mail %d at %s is cancelled by an order issued when %d was the last", m, n.name, c.arrived[n.name])
			}
			return true
		})
		if n.w.rnd.IntN(5) == 0 {
			n.start() // dies before it is noted: it is done again
			return
		}
		if err := n.log.Done(o.ID); err != nil {
			n.w.t.Error(err)
		}
	}
}

// holds reports whether each node obeys what it has heard.
func (w *world) holds() bool {
	for _, n := range w.nodes {
		if want, got := n.should(), n.stands(); !slices.Equal(want, got) {
			w.t.Errorf("%s at %s: %v stand, want %v", n.name, w.now, got, want)
			return false
		}
		for _, k := range n.log.Refused() {
			w.seen["refused"] += k
		}
	}
	return !w.t.Failed()
}

// should are the pauses that must stand at a node by what it has heard.
func (n *member) should() []string { return n.w.standing(n.heard, n.clock()) }

func (w *world) standing(heard map[order.ID]bool, now time.Time) (list []string) {
	lifted := map[order.ID]bool{}
	for id := range heard {
		for _, x := range w.resumes[id] {
			lifted[x] = true
		}
	}
	for id := range heard {
		if until, is := w.pauses[id]; is && !lifted[id] && (until.IsZero() || now.Before(until)) {
			list = append(list, id.String())
		}
	}
	slices.Sort(list)
	return list
}

func (n *member) stands() (list []string) {
	for _, o := range n.log.Live(order.Pause) {
		list = append(list, o.ID.String())
	}
	slices.Sort(list)
	return list
}

// merge ends all trouble, and looks whether all come to the same.
func (w *world) merge() bool {
	w.store.away, w.store.bad = false, false
	all := map[order.ID]bool{}
	for _, n := range w.nodes {
		n.cut, n.skew = false, 0
		maps.Copy(all, n.heard)
	}
	for _, x := range w.store.entries { // some may be known to the store alone by now
		if id, ok := order.IDOf(x); ok {
			all[id] = true
		}
	}
	for range 30 {
		w.now = w.now.Add(lastGap / 20)
		for _, n := range w.nodes {
			for range 4 {
				_ = n.x.follow(context.Background())
			}
			n.turn()
		}
		if !w.holds() {
			return false
		}
	}
	want := w.standing(all, w.now)
	for _, n := range w.nodes {
		if got := n.stands(); !slices.Equal(got, want) {
			w.t.Errorf("after all is well %s has %v, want %v", n.name, got, want)
			return false
		}
	}
	return !w.t.Failed()
}
