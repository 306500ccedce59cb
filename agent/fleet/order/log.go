package order

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/agent/printable"
)

// Options are what a Log works with.
type Options struct {
	Fleet, Node string
	// Path of the file, in the state directory; "": nothing outlives the process.
	Path string
	// Certificate is the node's, issued by the fleet's CA itself, with its key (ECDSA, Ed25519 or
	// RSA); Roots has the CA.
	Certificate *tls.Certificate
	Roots       *x509.CertPool
	Log         *slog.Logger
	Now         func() time.Time // nil: time.Now
	Disk        Disk             // in place of the file; nil: the file
}

// kept is an order with its signed form.
type kept struct {
	Order
	line []byte // Signed in JSON, without the line's end
}

// Log is the set of orders that a node has heard of. Its methods may be called by many
// goroutines.
type Log struct {
	o      Options
	signer signer
	judge  verifier

	mu       sync.Mutex // held over the disk's work: an order counts once it is durable
	instance string
	number   uint64 // of our last order
	reported uint64 // of our last report
	orders   map[ID]*kept
	lifted   map[ID]int // by how many of orders
	done     map[ID]bool
	reports  map[string]*Report // of others, by node
	file     Disk
	lines    int  // in the file
	behind   bool // the file lacks something: it could not be written
	failed   error
	damaged  int // lines of the file that could not be read
	refused  map[error]int
	toldAt   time.Time // when a refusal was last logged
	// noChanges and noTombs are as in Report.
	noChanges, noTombs time.Time
	watchers           []chan struct{}

	loading bool // what is read is this node's own file
}

// Open reads the orders that the file keeps. What is damaged in it is left out, which is logged
// and stays in Trouble: the other nodes send it again, and a pause stands in standing.json
// meanwhile. With ErrCertificate nothing was read.
func Open(o Options) (*Log, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{
		o: o, judge: verifier{roots: o.Roots, certs: make(map[[sha256.Size]byte]*judged)},
		orders: make(map[ID]*kept), lifted: make(map[ID]int), done: make(map[ID]bool), reports: make(map[string]*Report), refused: make(map[error]int),
	}
	var err error
	if l.signer, err = newSigner(o.Certificate, o.Node); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	random := make([]byte, 8)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	l.instance = hex.EncodeToString(random)
	if l.file = o.Disk; l.file == nil && o.Path != "" {
		l.file = &file{path: o.Path}
	}
	if l.file != nil {
		l.loading = true
		err := l.load()
		l.loading = false
		if err != nil {
			return nil, fmt.Errorf("orders of the fleet: %w; remedy: mend %s, or move it away: the other nodes send again what they have", err, o.Path)
		}
	}
	return l, nil
}

// Node is the name of this node.
func (l *Log) Node() string { return l.o.Node }

// Fleet is the name of the fleet.
func (l *Log) Fleet() string { return l.o.Fleet }

// Issue makes an order that somebody gave on this node, with a body (nil: none), which lifts others.
// On return it is durable, and stands; with an error and an ID that is not zero it stands, but may not outlive the
// process, or is for this node alone, as its certificate is not valid now.
func (l *Log) Issue(who string, kind Kind, body any, until time.Time, lifts ...ID) (ID, error) {
	o := Order{Fleet: l.o.Fleet, Kind: kind, Who: who, At: l.o.Now().UTC(), Until: until.UTC(), Lifts: lifts}
	if until.IsZero() {
		o.Until = time.Time{}
	}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return ID{}, err
		}
		o.Body = b
	}
	if len(o.Body) > MaxBody || len(lifts) > maxLifts {
		return ID{}, fmt.Errorf("the order is too long: %d octets, and lifts %d others", len(o.Body), len(lifts))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if kind.standing() && len(lifts) == 0 && l.standing() >= MaxStanding {
		return ID{}, ErrFull
	}
	if kind == Unsuppress {
		o.Seen = make(Known)
		for id, x := range l.orders {
			if x.Kind == Suppress {
				o.Seen.Add(id)
			}
		}
	}
	l.number++
	o.ID = ID{l.o.Node, l.instance, l.number}
	s, err := l.signer.sign(forOrder, &o)
	if err != nil {
		return ID{}, err
	}
	line, err := json.Marshal(s)
	if err != nil {
		return ID{}, err
	}
	l.put(&kept{o, line})
	l.bound()
	err = l.write(append(orderLine(line), '\n'), 1)
	l.changed()
	if _, bad := l.judge.judge(l.signer.cert, o.At); bad != nil {
		err = errors.Join(err, fmt.Errorf("it stands on this node alone, as the others refuse this node's certificate: %w; remedy: put a new one at tls_cert_file of [fleet], restart the agent, and order it again", bad))
	}
	return o.ID, err
}

// TakeAll takes orders that came from elsewhere, each a Signed in JSON, and returns how many of
// them are new. They are durable on return; with an error they stand all the same, and may not
// outlive the process. What cannot be taken is counted (Trouble) and logged once a minute. What
// changes something here is logged with who ordered it.
func (l *Log) TakeAll(lines [][]byte) (fresh int, err error) {
	now := l.o.Now()
	var text []byte
	var taken []news
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range lines {
		k, err := l.read(line, now)
		if err != nil {
			l.refuse(err, claimed(line))
			continue
		}
		if k == nil {
			continue
		}
		taken = append(taken, l.news(k, taken))
		l.put(k)
		fresh++
		text = append(append(text, orderLine(k.line)...), '\n')
	}
	if fresh == 0 {
		return 0, nil
	}
	l.bound()
	err = l.write(text, fresh)
	l.tell(taken)
	l.changed()
	return fresh, err
}

// read judges an order; nil if it is known, or of no more use.
func (l *Log) read(line []byte, now time.Time) (*kept, error) {
	if len(line) > MaxSize {
		return nil, ErrFormat
	}
	var s Signed
	var k kept
	if json.Unmarshal(line, &s) != nil || json.Unmarshal(s.Text, &k.Order) != nil || k.ID.Number == 0 {
		return nil, ErrFormat
	}
	switch _, is := l.orders[k.ID]; {
	case k.Fleet != l.o.Fleet:
		return nil, ErrForeign
	case is || l.lifted[k.ID] > 0 && len(k.Lifts) == 0 || len(k.Lifts) == 0 && k.over(now):
		return nil, nil // before its signature is looked at: a store may repeat it as often as it likes
	case k.Kind.change() && (k.over(now) || !k.At.After(l.noChanges)), !k.Kind.once() && !k.Kind.standing() && !k.At.After(l.noTombs):
		return nil, nil
	case len(k.Body) > MaxBody || len(k.Lifts) > maxLifts || !k.Seen.valid():
		return nil, ErrFormat
	}
	err := l.judge.verify(forOrder, &s, k.ID.Node, k.At)
	if l.loading && k.ID.Node == l.o.Node && errors.Is(err, ErrUnknown) {
		err = nil // given here, when the certificate had ended: the file is ours, and what stands is not dropped
	}
	if err != nil {
		return nil, err
	}
	if k.Kind.standing() && l.lifted[k.ID] == 0 && len(l.orders) >= MaxStanding && l.standing() >= MaxStanding {
		return nil, ErrFull
	}
	k.line, _ = json.Marshal(&s) // as we would write it: on one line, and nothing else
	return &k, nil
}

// put adds an order to the set, and drops what it makes useless; bound comes after the last of
// several. The caller holds mu.
func (l *Log) put(k *kept) {
	l.orders[k.ID] = k
	for _, id := range k.Lifts {
		l.lifted[id]++
		if x := l.orders[id]; x != nil && len(x.Lifts) == 0 {
			l.drop(x)
		}
	}
}

func (l *Log) drop(k *kept) {
	delete(l.orders, k.ID)
	delete(l.done, k.ID)
	for _, id := range k.Lifts {
		if l.lifted[id]--; l.lifted[id] == 0 {
			delete(l.lifted, id)
		}
	}
}

// tomb reports whether an order does nothing any more but lift others.
func (l *Log) tomb(k *kept, now time.Time) bool {
	return !k.Kind.once() && (!k.Kind.standing() || l.lifted[k.ID] > 0 || k.over(now))
}

// bound drops the oldest of what there is too much of. Which they are is the same on each node.
// The caller holds mu.
func (l *Log) bound() {
	changes, tombs, size := 0, 0, 0
	now := l.o.Now()
	for _, k := range l.orders {
		switch {
		case k.Kind.change():
			changes++
			size += len(k.line)
		case l.tomb(k, now):
			tombs++
		}
	}
	if changes <= MaxChanges && size <= MaxChangesSize && tombs <= MaxTombs {
		return
	}
	byAge := make([]*kept, 0, len(l.orders))
	for _, k := range l.orders {
		byAge = append(byAge, k)
	}
	slices.SortFunc(byAge, func(a, b *kept) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return a.ID.Compare(b.ID)
	})
	for _, k := range byAge {
		switch {
		case k.Kind.change() && (changes > MaxChanges || size > MaxChangesSize):
			l.noChanges = k.At
			changes--
			size -= len(k.line)
			l.drop(k)
		case !k.Kind.change() && l.tomb(k, now) && tombs > MaxTombs:
			l.noTombs = k.At
			tombs--
			l.drop(k)
		}
	}
}

// standing counts what stands until it is lifted. The caller holds mu.
func (l *Log) standing() (n int) {
	for id, k := range l.orders {
		if k.Kind.standing() && l.lifted[id] == 0 {
			n++
		}
	}
	return n
}

// Live lists the orders of a kind that stand now, in the order of their identities.
func (l *Log) Live(kind Kind) (list []Order) {
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, k := range l.orders {
		if k.Kind == kind && l.lifted[id] == 0 && !k.over(now) {
			list = append(list, k.Order)
		}
	}
	slices.SortFunc(list, func(a, b Order) int { return a.ID.Compare(b.ID) })
	return list
}

// IsLifted reports whether an order that is known has lifted this one.
func (l *Log) IsLifted(id ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lifted[id] > 0
}

// Has reports whether an order is in the set.
func (l *Log) Has(id ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.orders[id] != nil
}

// Pending lists the orders of a kind that are to be done once and were not yet, by their age.
// Cancels are those that are not over.
func (l *Log) Pending(kinds ...Kind) (list []Order) {
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, k := range l.orders {
		if slices.Contains(kinds, k.Kind) && !l.done[id] && !k.over(now) {
			list = append(list, k.Order)
		}
	}
	slices.SortFunc(list, func(a, b Order) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		return a.ID.Compare(b.ID)
	})
	return list
}

// Done notes that orders were done on this node. It is durable on return. What was done must be
// so before: after a crash in between it is done again.
func (l *Log) Done(ids ...ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var text []byte
	n := 0
	for _, id := range ids {
		if l.orders[id] != nil && !l.done[id] {
			l.done[id] = true
			text = append(append(append(text, doneMark...), id.String()...), '\n')
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return l.write(text, n)
}

// Known is what this node has. What it only knows to be lifted is not in it: that may lift others
// itself.
func (l *Log) Known() Known {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known()
}

func (l *Log) known() Known {
	var ids []ID
	for id := range l.orders {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, ID.Compare) // each is added at the end: no insertion in the middle
	k := make(Known)
	for _, id := range ids {
		k.Add(id)
	}
	return k
}

// Lacking lists orders, in the form that TakeAll takes, that the node of a report does not have
// and would take; the oldest first, at most so many. With own they are those that this node has
// issued.
func (l *Log) Lacking(r *Report, own bool, most int) (lines [][]byte) {
	now := l.o.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*kept
	for id, k := range l.orders {
		if own && id.Node != l.o.Node || r.Known.Has(id) || len(k.Lifts) == 0 && k.over(now) ||
			k.Kind.change() && !k.At.After(r.NoChanges) || l.tomb(k, now) && !k.At.After(r.NoTombs) {
			continue
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *kept) int {
		if a.Kind.change() != b.Kind.change() { // pauses before long lists
			if a.Kind.change() {
				return 1
			}
			return -1
		}
		return a.At.Compare(b.At)
	})
	for _, k := range list[:min(most, len(list))] {
		lines = append(lines, k.line)
	}
	return lines
}

// Report makes the report of this node, signed, in JSON.
func (l *Log) Report(position, address string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	l.reported++
	s, err := l.signer.sign(forReport, &Report{
		Fleet: l.o.Fleet, Node: l.o.Node, Instance: l.instance, Number: l.reported, At: l.o.Now().UTC(),
		Known: l.known(), NoChanges: l.noChanges, NoTombs: l.noTombs, Position: position, Address: address,
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// maxReport bounds the octets of a report.
const maxReport = 4 << 20

// TakeReport takes another node's report. An old one changes nothing.
func (l *Log) TakeReport(line []byte) error {
	var s Signed
	var r Report
	if len(line) > maxReport || json.Unmarshal(line, &s) != nil || json.Unmarshal(s.Text, &r) != nil || !r.Known.valid() {
		return l.refused1(ErrFormat, r.Node)
	}
	if r.Fleet != l.o.Fleet {
		return l.refused1(ErrForeign, r.Node)
	}
	l.mu.Lock()
	old := l.reports[r.Node]
	l.mu.Unlock()
	if r.Node == l.o.Node || old != nil && !r.newer(old) {
		return nil
	}
	if err := l.judge.verify(forReport, &s, r.Node, r.At); err != nil {
		return l.refused1(err, r.Node)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.reports[r.Node]; old == nil || r.newer(old) {
		l.reports[r.Node] = &r
	}
	return nil
}

// Reports are the last reports of the other nodes, by node. They are not changed.
func (l *Log) Reports() map[string]*Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]*Report, len(l.reports))
	for node, r := range l.reports {
		all[node] = r
	}
	return all
}

// Address is where another node answers, by its last report; "": it is not known.
func (l *Log) Address(node string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.reports[node]; r != nil {
		return r.Address
	}
	return ""
}

// Changes returns a channel that gets a value after each change of the set; several may be one.
func (l *Log) Changes() <-chan struct{} {
	c := make(chan struct{}, 1)
	c <- struct{}{} // what is there already
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers = append(l.watchers, c)
	return c
}

func (l *Log) changed() {
	for _, c := range l.watchers {
		select {
		case c <- struct{}{}:
		default: // the one that is there was not seen yet
		}
	}
}

func (l *Log) refused1(err error, node string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse(err, node)
	return err
}

// claimed is the node that an order claims to come from; "" if it does not say.
func claimed(line []byte) string {
	id, _ := IDOf(line)
	return id.Node
}

// refuse counts what was not taken, and logs it once a minute with the node that it claims to come
// from. The caller holds mu.
func (l *Log) refuse(err error, node string) {
	for _, kind := range []error{ErrForged, ErrForeign, ErrUnknown, ErrFull, ErrFormat} {
		if errors.Is(err, kind) {
			l.refused[kind]++
		}
	}
	if now := l.o.Now(); now.Sub(l.toldAt) >= time.Minute {
		l.toldAt = now
		l.o.Log.Warn("fleet: what claims to be an order is not taken; remedy: see that millrace check on the node that it names finds its certificate good; if so, look who writes to the store",
			"node", printable.Shorten(node, maxName), "err", err, "refused", l.sum())
	}
}

func (l *Log) sum() (n int) {
	for _, x := range l.refused {
		n += x
	}
	return n
}

// Refused is how many statements were not taken since the start, by reason: "forged", "foreign",
// "unknown", "full", "format".
func (l *Log) Refused() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[string]int{
		"forged": l.refused[ErrForged], "foreign": l.refused[ErrForeign], "unknown": l.refused[ErrUnknown],
		"full": l.refused[ErrFull], "format": l.refused[ErrFormat],
	}
}

// Trouble is what an admin should look at; none if all is well.
func (l *Log) Trouble() (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		list = append(list, fmt.Sprintf("orders of the fleet are in force, but will not outlive the agent: %v", l.failed))
	}
	if l.damaged > 0 {
		list = append(list, fmt.Sprintf("%d damaged lines of the fleet's orders were left out; pauses of before stay until they are resumed (millrace brakes), the other nodes send the rest again", l.damaged))
	}
	if l.refused[ErrFull] > 0 {
		list = append(list, fmt.Sprintf("%d orders of the fleet stand, which is the most; see to the cause, then millrace resume", MaxStanding))
	}
	return list
}
