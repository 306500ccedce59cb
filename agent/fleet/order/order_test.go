package order

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/fleetca"
)

func open(t *testing.T, ca *fleetca.CA, c *tls.Certificate, node, path string) *Log {
	t.Helper()
	l, err := Open(Options{Fleet: "f", Node: node, Path: path, Certificate: c, Roots: ca.Roots, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func issue(t *testing.T, l *Log, kind Kind, body any, lifts ...ID) ID {
	t.Helper()
	id, err := l.Issue("", kind, body, time.Time{}, lifts...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func all(l *Log) [][]byte { return l.Lacking(&Report{}, false, 100_000) }

func TestEachKindOfKeySigns(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ec384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	to := open(t, ca, ca.Node(t, "b"), "b", "")
	for _, key := range []crypto.Signer{ec, ec384, rs, nil} {
		c := ca.Node(t, "a")
		if key != nil {
			c = ca.With(t, "a", key)
		}
		from := open(t, ca, c, "a", "")
		id := issue(t, from, Pause, "one")
		if n, err := to.TakeAll(all(from)); n != 1 || err != nil || !to.Has(id) {
			t.Errorf("%T: %d taken, %v, refused %v", c.PrivateKey, n, err, to.Refused())
		}
	}
	if _, err := Open(Options{Fleet: "f", Node: "x", Certificate: ca.Node(t, "a"), Roots: ca.Roots}); err == nil || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("the certificate of another node: %v", err)
	}
}

// TestOnlyTrueOrdersAreTaken changes a true one in each way.
func TestOnlyTrueOrdersAreTaken(t *testing.T) {
	t.Parallel()
	ca, other := fleetca.New(t), fleetca.New(t)
	from := open(t, ca, ca.Node(t, "a"), "a", "")
	issue(t, from, Pause, "one")
	line := all(from)[0]
	changed := func(f func(*Signed, *Order)) []byte {
		var s Signed
		var o Order
		if json.Unmarshal(line, &s) != nil || json.Unmarshal(s.Text, &o) != nil {
			t.Fatal("not an order")
		}
		text := s.Text
		f(&s, &o)
		if bytes.Equal(text, s.Text) {
			s.Text, _ = json.Marshal(&o)
		}
		b, _ := json.Marshal(&s)
		return b
	}
	report, err := from.Report("", "")
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		line []byte
		want string
	}{
		"another body":            {changed(func(_ *Signed, o *Order) { o.Body = []byte(`"two"`) }), "forged"},
		"another number":          {changed(func(_ *Signed, o *Order) { o.ID.Number++ }), "forged"},
		"another node":            {changed(func(_ *Signed, o *Order) { o.ID.Node = "b" }), "forged"},
		"another fleet":           {changed(func(_ *Signed, o *Order) { o.Fleet = "g" }), "foreign"},
		"a certificate of others": {changed(func(s *Signed, _ *Order) { s.Cert = other.Node(t, "a").Certificate[0] }), "unknown"},
		"a signature cut short":   {changed(func(s *Signed, _ *Order) { s.Sig = s.Sig[1:] }), "forged"},
		"no certificate":          {changed(func(s *Signed, _ *Order) { s.Cert = nil }), "unknown"},
		"before the certificate":  {changed(func(_ *Signed, o *Order) { o.At = o.At.AddDate(-3, 0, 0) }), "unknown"},
		"a report":                {report, "format"},
		"half an order":           {line[:len(line)/2], "format"},
	} {
		to := open(t, ca, ca.Node(t, "c"), "c", "")
		if n, err := to.TakeAll([][]byte{x.line}); n != 0 || err != nil || to.Refused()[x.want] != 1 {
			t.Errorf("%s: %d taken, %v, refused %v, want %s", name, n, err, to.Refused(), x.want)
		}
		if n, err := to.TakeAll([][]byte{line, line}); n != 1 || err != nil {
			t.Errorf("%s: then of the true one %d taken, %v", name, n, err)
		}
	}
}

// TestFileKeepsWhatStands restarts a node with its file as it is, cut short anywhere, and damaged.
func TestFileKeepsWhatStands(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	c := ca.Node(t, "a")
	path := filepath.Join(t.TempDir(), "state", "orders")
	l := open(t, ca, c, "a", path)
	one, two := issue(t, l, Pause, "one"), issue(t, l, Pause, "two")
	issue(t, l, Lift, nil, one)
	cancel := issue(t, l, Cancel, "x")
	if err := l.Done(cancel); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, ca, c, "a", path)
	if live := again.Live(Pause); len(live) != 1 || live[0].ID != two || !again.IsLifted(one) || len(again.Pending(Cancel)) != 0 {
		t.Errorf("after a restart: %v, pending %v", live, again.Pending(Cancel))
	}
	if id := issue(t, again, Pause, "three"); id.Instance == two.Instance {
		t.Error("a restart gives numbers anew")
	}
	for n := range len(whole) {
		if n%37 != 0 {
			continue
		}
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		cut := open(t, ca, c, "a", path)
		if got, want := len(cut.orders), max(0, min(4, bytes.Count(whole[:n], []byte("\no "))-1)); got < want-1 || len(cut.Trouble()) != 0 {
			t.Errorf("cut at %d: %d orders, want %d; %v", n, got, want, cut.Trouble())
		}
	}
	damaged := bytes.Clone(whole)
	damaged[bytes.Index(damaged, []byte("\no "))+100] ^= 1 // the first order, after the header
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	rest := open(t, ca, c, "a", path)
	if live := rest.Live(Pause); len(live) != 1 || live[0].ID != two || len(rest.Trouble()) != 1 {
		t.Errorf("of a damaged file: %v, %v", live, rest.Trouble())
	}
	if err := os.WriteFile(path, []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Fleet: "f", Node: "a", Path: path, Certificate: c, Roots: ca.Roots}); err == nil || !strings.Contains(err.Error(), "remedy") {
		t.Errorf("of another file: %v", err)
	}
}

// TestFileThatCannotBeWrittenIsTold takes the directory away, and gives it back.
func TestFileThatCannotBeWrittenIsTold(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	c := ca.Node(t, "a")
	d := &failing{}
	l, err := Open(Options{Fleet: "f", Node: "a", Certificate: c, Roots: ca.Roots, Log: slog.New(slog.DiscardHandler), Disk: d})
	if err != nil {
		t.Fatal(err)
	}
	d.fails = true
	id, err := l.Issue("", Pause, "one", time.Time{})
	if err == nil || !l.Has(id) || len(l.Trouble()) != 1 {
		t.Errorf("%v, %v, %v", id, err, l.Trouble())
	}
	d.fails = false
	if _, err := l.Report("", ""); err != nil || len(l.Trouble()) != 0 || !bytes.Contains(d.kept, []byte("\no ")) {
		t.Errorf("once it can be written: %v, %v", err, l.Trouble())
	}
}

// failing is a disk that fails.
type failing struct {
	kept  []byte
	fails bool
}

func (f *failing) Read() ([]byte, error) { return f.kept, nil }

func (f *failing) Append(b []byte) error { return f.do(append(f.kept, b...)) }

func (f *failing) Replace(b []byte) error { return f.do(bytes.Clone(b)) }

func (f *failing) do(b []byte) error {
	if f.fails {
		return errors.New("disk full")
	}
	f.kept = b
	return nil
}

// TestBoundsDropTheOldestAndSaySo fills a node with changes of the suppression list.
func TestBoundsDropTheOldestAndSaySo(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	now := time.Now()
	l, err := Open(Options{Fleet: "f", Node: "a", Certificate: ca.Node(t, "a"), Roots: ca.Roots, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	pause := issue(t, l, Pause, "stays")
	body := strings.Repeat("x", MaxBody-10)
	var ids []ID
	for range 500 { // 40 MiB
		now = now.Add(time.Second)
		ids = append(ids, issue(t, l, Suppress, body))
	}
	size := 0
	for _, k := range l.orders {
		size += len(k.line)
	}
	if size > MaxChangesSize+MaxSize || l.Has(ids[0]) || !l.Has(ids[499]) || !l.Has(pause) {
		t.Errorf("%d octets are kept", size)
	}
	// Another node that has them all sends none that would be dropped again.
	other := open(t, ca, ca.Node(t, "b"), "b", "")
	report, err := l.Report("", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := other.TakeReport(report); err != nil {
		t.Fatal(err)
	}
	if r := other.Reports()["a"]; r.NoChanges.IsZero() || !r.Known.Has(ids[499]) || r.Known.Has(ids[0]) {
		t.Errorf("reported as %v", r.NoChanges)
	}
	now = now.Add(SuppressFor)
	l.Expire()
	if len(l.Pending(Suppress)) != 0 || len(l.orders) != 1 {
		t.Errorf("%d are kept after their time", len(l.orders))
	}
	if _, err := l.Issue("", Pause, strings.Repeat("x", MaxBody+1), time.Time{}); err == nil {
		t.Error("an order without a bound was made")
	}
}

// TestWhatLiftsIsSentThoughItIsLifted has a node that knows of a pause, and of the last of two orders
// that replaced it one after the other: the one in between must still come to it, as only that says
// that the pause is over.
func TestWhatLiftsIsSentThoughItIsLifted(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	a, b := open(t, ca, ca.Node(t, "a"), "a", ""), open(t, ca, ca.Node(t, "b"), "b", "")
	first := issue(t, a, Pause, "one")
	lines := all(a)
	second := issue(t, a, Pause, "two", first)
	last := issue(t, a, Lift, nil, second)
	for _, line := range all(a) {
		if id, _ := IDOf(line); id == last {
			lines = append(lines, line)
		}
	}
	if n, err := b.TakeAll(lines); n != 2 || err != nil || len(b.Live(Pause)) != 1 {
		t.Fatalf("%d taken, %v, %v stands", n, err, b.Live(Pause))
	}
	report, err := b.Report("", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.TakeReport(report); err != nil {
		t.Fatal(err)
	}
	if _, err := b.TakeAll(a.Lacking(a.Reports()["b"], true, 10)); err != nil || len(b.Live(Pause)) != 0 {
		t.Errorf("%v, %v stands", err, b.Live(Pause))
	}
}

func TestKnownHasWhatWasAdded(t *testing.T) {
	t.Parallel()
	k := make(Known)
	has := map[uint64]bool{}
	for i := range uint64(2000) {
		n := i*i*7919%1009 + 1
		k.Add(ID{"a", "i", n})
		has[n] = true
	}
	for n := uint64(1); n < 1100; n++ {
		if k.Has(ID{"a", "i", n}) != has[n] {
			t.Errorf("%d: %v", n, !has[n])
		}
	}
	if !k.valid() || (Known{"a/i": {{2, 1}}}).valid() || (Known{"a/i": {{1, 2}, {3, 4}}}).valid() || (Known{"a/i": {{0, 1}}}).valid() {
		t.Errorf("valid: %v", k)
	}
	for _, text := range []string{"", "a", "a/b", "a/b/0", "a//1", "/b/1", "a/b/1/2", "a/b/x", fmt.Sprintf("%064d/b/1", 1)} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("%q is %v", text, id)
		}
	}
}

// A pause that is given after the node's certificate has ended is for nobody else, which is said,
// and is not forgotten here at the next start.
func TestOrderOfACertificateThatHasEnded(t *testing.T) {
	t.Parallel()
	ca := fleetca.New(t)
	c, path := ca.Node(t, "a"), filepath.Join(t.TempDir(), "orders.log")
	later := time.Now().Add(3 * 365 * 24 * time.Hour)
	o := Options{Fleet: "f", Node: "a", Path: path, Certificate: c, Roots: ca.Roots, Now: func() time.Time { return later }, Log: slog.New(slog.DiscardHandler)}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	id, err := l.Issue("", Pause, "all", time.Time{})
	if id.Number == 0 || err == nil || !strings.Contains(err.Error(), "this node alone") || !strings.Contains(err.Error(), "; remedy: ") {
		t.Errorf("order %v, %v", id, err)
	}
	o.Certificate = ca.Node(t, "a")
	if l, err = Open(o); err != nil {
		t.Fatal(err)
	}
	if n := len(all(l)); n != 1 {
		t.Errorf("%d orders after a restart, not the pause", n)
	}
}
