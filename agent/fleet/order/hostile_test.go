package order

import (
	"encoding/json"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/millrace/millrace/contrib/lab/fleetca"
)

// memory is a Disk without a disk.
type memory []byte

func (m *memory) Read() ([]byte, error)  { return *m, nil }
func (m *memory) Append(b []byte) error  { *m = append(*m, b...); return nil }
func (m *memory) Replace(b []byte) error { *m = append(memory(nil), b...); return nil }
func (m *memory) log(t testing.TB, ca *fleetca.CA) (*Log, error) {
	return Open(Options{Fleet: "f", Node: "c", Disk: m, Certificate: ca.Node(t, "c"), Roots: ca.Roots, Log: slog.New(slog.DiscardHandler)})
}

// stays sees that a node which starts again has what it had.
func (m *memory) stays(t *testing.T, ca *fleetca.CA, l *Log) {
	t.Helper()
	again, err := m.log(t, ca)
	if err != nil {
		t.Fatalf("%v\n%q", err, *m)
	}
	if !reflect.DeepEqual(l.Known(), again.Known()) {
		t.Errorf("known were %v, and are after a restart %v", l.Known(), again.Known())
	}
	for _, kind := range []Kind{Pause, Limit, Priority} {
		if a, b := l.Live(kind), again.Live(kind); len(a) != len(b) {
			t.Errorf("of %s there were %v, and are after a restart %v", kind, a, b)
		}
	}
}

// FuzzStatements has a member sign whatever it likes, and strangers send what they like: the node
// goes on, takes the next order, and has after a restart what it had.
func FuzzStatements(f *testing.F) {
	ca := fleetca.New(f)
	member, err := newSigner(ca.Node(f, "a"), "a")
	if err != nil {
		f.Fatal(err)
	}
	at := time.Now().UTC().Format(time.RFC3339)
	for _, text := range []string{
		`{"fleet":"f","id":"a/i/1","kind":"pause","at":"` + at + `","body":{}}`,
		`{"fleet":"f","id":"a/i/1","kind":"lift","at":"` + at + `","lifts":["a/i/1"]}`,
		`{"fleet":"f","node":"a","instance":"i","number":1,"at":"` + at + `","known":{"a":{"i":[[1,9223372036854775807]]}}}`,
		`{}`, `[]`, `"x"`,
	} {
		f.Add([]byte(text))
	}
	from, err := Open(Options{Fleet: "f", Node: "a", Certificate: ca.Node(f, "a"), Roots: ca.Roots, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	id, err := from.Issue("ann", Pause, "one", time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	for _, more := range []ID{{}, id} {
		lifts := []ID{more}
		if more == (ID{}) {
			lifts = nil
		}
		if _, err := from.Issue("ann", Unsuppress, []string{"x"}, time.Time{}, lifts...); err != nil {
			f.Fatal(err)
		}
	}
	good := from.Lacking(&Report{}, false, 10)
	report, err := from.Report("1/2", "192.0.2.1:1")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range append(good, report) {
		var s Signed
		if err := json.Unmarshal(line, &s); err != nil {
			f.Fatal(err)
		}
		f.Add(s.Text)
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m := &memory{}
		l, err := m.log(t, ca)
		if err != nil {
			t.Fatal(err)
		}
		lines := [][]byte{text}
		for _, purpose := range []string{forOrder, forReport} {
			if s, err := member.sign(purpose, json.RawMessage(text)); err == nil { // else it is no JSON
				line, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, line)
			}
		}
		for _, line := range lines {
			_ = l.TakeReport(line) // what cannot be taken is counted
		}
		if _, err := l.TakeAll(lines); err != nil {
			t.Error(err)
		}
		for _, r := range l.Reports() {
			l.Lacking(r, true, 10)
		}
		if _, err := l.TakeAll(good); err != nil {
			t.Error(err)
		}
		l.Expire()
		m.stays(t, ca, l)
	})
}

// FuzzFile: whatever stands in the file, the node starts, or says that it is no such file; and what
// it has then it has again after the next start.
func FuzzFile(f *testing.F) {
	ca := fleetca.New(f)
	m := &memory{}
	l, err := m.log(f, ca)
	if err != nil {
		f.Fatal(err)
	}
	id, err1 := l.Issue("ann", Pause, "one", time.Time{})
	_, err2 := l.Issue("ann", Lift, nil, time.Time{}, id)
	change, err3 := l.Issue("ann", Suppress, []string{"a@b.example"}, time.Time{})
	if err1 != nil || err2 != nil || err3 != nil || l.Done(change) != nil {
		f.Fatal(err1, err2, err3)
	}
	f.Add([]byte(*m))
	f.Add([]byte(header))
	f.Add([]byte(header[:7]))
	f.Add([]byte(header + "o {}\nd a/b/1\nd \n\nx"))
	f.Add([]byte("millrace orders 2\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m := memory(text)
		l, err := m.log(t, ca)
		if err != nil {
			return
		}
		if _, err := l.Issue("ann", Pause, "two", time.Time{}); err != nil {
			t.Error(err)
		}
		m.stays(t, ca, l)
	})
}
