package spool

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Spools that earlier programs wrote, as archives, each with what is in it.
// They are never written anew: every later version has to read them. format1-plain
// is from before there were footers and holes; format1 has both.
var writeFixture = flag.String("write-fixture", "", "write an archive of this name in testdata, and listings that are missing")

func TestOlderSpoolsAreRead(t *testing.T) {
	t.Parallel()
	if *writeFixture != "" {
		pack(t, makeFixture(t), *writeFixture)
	}
	archives, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(archives) < 2 {
		t.Fatalf("archives: %v, %v", archives, err)
	}
	for _, archive := range archives {
		name := strings.TrimSuffix(archive, ".tar.gz")
		dir := unpack(t, archive)
		got := listReader(t, dir) + listStore(t, dir)
		if _, err := os.Stat(name + ".txt"); err != nil && *writeFixture != "" {
			if err := os.WriteFile(name+".txt", []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s reads\n%s\nwant\n%s", archive, got, want)
		}
	}
}

// listReader lists what a Reader shows, and that there are no faults.
func listReader(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if _, err := Verify(dir, func(f Fault) { fmt.Fprintln(&b, "fault", strings.TrimPrefix(f.String(), dir)) }); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	err = r.Messages(func(m *Message) error {
		fmt.Fprintf(&b, "reader %s %s done=%v blob=%v ", m.ID, m.Verdict, m.Done, m.Blob)
		return describe(&b, m.Envelope, m.States, m.Done, r.Open, m.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// listStore lists what an agent gets.
func listStore(t *testing.T, dir string) string {
	t.Helper()
	o := smallStore(t, nil)
	o.byHand = true
	s := openStore(t, dir, o)
	var b strings.Builder
	err := s.Load(func(id ID, e *Envelope, states []State) error {
		fmt.Fprintf(&b, "load %s ", id)
		return describe(&b, e, states, false, s.Open, id)
	})
	if err == nil {
		err = s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
			fmt.Fprintf(&b, "follow %s orphan=%v ", id, orphan)
			return describe(&b, e, states, false, s.Open, id)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "damage %v\n", s.Damaged())
	return b.String()
}

func describe(b *strings.Builder, e *Envelope, states []State, done bool, open func(ID) (*Content, error), id ID) error {
	utc := *e
	utc.Arrived = e.Arrived.UTC()
	// What older spools cannot have is left out of what they read as.
	b.WriteString(strings.NewReplacer(" Formerly: Pool: ", " ", " Moved: ", " ").Replace(fmt.Sprintf("%+v", utc)))
	for _, st := range states {
		fmt.Fprintf(b, " [%s tries=%d class=%d handback=%v due=%s %q]", st.Status, st.Tries, st.Class, st.Handback, st.Due.UTC().Format(time.RFC3339Nano), st.Reply)
	}
	if !done {
		c, err := open(id)
		if err != nil {
			return err
		}
		defer c.Close()
		sum := crc32.NewIEEE()
		if _, err := io.Copy(sum, c); err != nil {
			return err
		}
		fmt.Fprintf(b, " content %08x", sum.Sum32())
	}
	b.WriteByte('\n')
	return nil
}

// makeFixture leaves a spool as it is in use: segments with footers, one with
// holes, one of a writer that still runs, a blob, a checkpoint and a journal.
func makeFixture(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	o := smallWriter(t, nil)
	o.SegmentSize = recordsAt + 32<<10
	w := openWriter(t, dir, o)
	var rs []Receipt
	for i := range 40 {
		e, content := letter(i, 1+i%3)
		r, err := w.Append(t.Context(), e, strings.NewReader(content+strings.Repeat(" and more\r\n", 100)))
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	e, _ := letter(40, 1)
	r, err := w.Append(t.Context(), e, strings.NewReader("Subject: big\r\n\r\n"+strings.Repeat("large content\r\n", 80000)))
	if err != nil {
		t.Fatal(err)
	}
	rs = append(rs, r)
	for i, r := range rs {
		switch i {
		case 7:
			if err := r.Void(); err != nil {
				t.Fatal(err)
			}
		case 39: // stays pending
		default:
			release(t, r)
		}
	}
	so := smallStore(t, nil)
	so.byHand, so.journalStep = true, 4096
	s := openStore(t, dir, so)
	newSeen().load(t, s)
	for i := range 20 {
		for r := range uint32(1 + i%3) {
			if i != 7 && (i != 5 || r != 1) {
				settle(t, s, rs[i].ID(), Delivered, r)
			}
		}
	}
	record := func(ev Event) {
		t.Helper()
		if err := s.Record(ev); err != nil {
			t.Fatal(err)
		}
	}
	record(Event{ID: rs[5].ID(), Recipient: 1, State: State{Tries: 3, Class: 2, Due: time.Unix(1800000000, 0), Reply: "451 4.7.1 Greylisted"}})
	s.upkeep()
	if err := s.rotate(); err != nil {
		t.Fatal(err)
	}
	record(Event{ID: rs[21].ID(), Recipient: 0, State: State{Tries: 1, Handback: true, Due: time.Unix(1800000001, 7), Reply: "550 5.7.1 no"}})
	settle(t, s, rs[20].ID(), Bounced, 2)
	if err := s.Beat(17); err != nil {
		t.Fatal(err)
	}
	if _, err := loopKey(nil, dir); err != nil {
		t.Fatal(err)
	}
	if len(s.segments[1].done) == 0 {
		t.Fatal("no holes")
	}
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func pack(t *testing.T, dir, name string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	a := tar.NewWriter(z)
	if err := a.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("testdata", name+".tar.gz"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unpack returns a directory with what is in an archive.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for a := tar.NewReader(z); ; {
		h, err := a.Next()
		if err == io.EOF {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(a); err == nil {
				err = os.WriteFile(name, b, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestReaderChangesNothing compares all files before and after, with names.
func TestReaderChangesNothing(t *testing.T) {
	t.Parallel()
	dir := unpack(t, "testdata/format1.tar.gz")
	image := func() (list []string) {
		err := filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			b, err := os.ReadFile(name)
			list = append(list, fmt.Sprintf("%s %v %08x", name, info.ModTime(), crc32.ChecksumIEEE(b)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	before := image()
	listReader(t, dir)
	if after := image(); !slices.Equal(before, after) {
		t.Errorf("files are\n%q, were\n%q", after, before)
	}
}
