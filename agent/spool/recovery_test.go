package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// image is a segment as a dead writer left it: not sealed, not truncated.
type image struct {
	bytes []byte
	ids   []ID
	ends  []int64 // of each record
	texts map[ID]string
}

// deadSegment makes a segment with n released records.
func deadSegment(t *testing.T, n int) image {
	t.Helper()
	dir := t.TempDir()
	o := smallWriter(t, &faultFS{root: dir, quick: true})
	o.SegmentSize = recordsAt + 8<<10
	w := openWriter(t, dir, o)
	im := image{texts: make(map[ID]string)}
	for i := range n {
		r := post(t, w, i, 2)
		release(t, r)
		im.ids = append(im.ids, r.ID())
		im.ends = append(im.ends, w.seg.end)
		_, im.texts[r.ID()] = letter(i, 2)
	}
	var err error
	if im.bytes, err = os.ReadFile(w.tree.segment(1)); err != nil {
		t.Fatal(err)
	}
	return im
}

// watermark moves the watermark of a copy of the image.
func (im image) watermark(t *testing.T, end int64) []byte {
	t.Helper()
	b := bytes.Clone(im.bytes)
	h, err := readSegmentHeader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	copy(b[watermarkAt:], encodeWatermark(h.salt, end))
	return b
}

// takeOver starts an agent on a spool with this one segment and returns what
// it yields, with contents.
func takeOver(t *testing.T, segment []byte) (got *seen, texts map[ID]string) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	files := &faultFS{root: dir, quick: true}
	if _, err := openTree(files, dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, segmentsDir, segmentName(1)), segment, 0o600); err != nil {
		t.Fatal(err)
	}
	o := smallStore(t, files)
	o.Logger = nil
	o.journalStep, o.byHand = 512, true
	s, err := OpenStore(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got = newSeen()
	got.load(t, s)
	err = s.lookAtAll(func(id ID, e *Envelope, states []State, orphan bool) error {
		got.add(id, e, states, orphan)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	texts = make(map[ID]string)
	for id := range got.ids {
		c, err := s.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(c); errors.Is(err, ErrDamaged) {
			texts[id] = "damaged"
		} else if err != nil {
			t.Fatal(err)
		} else {
			texts[id] = b.String()
		}
		c.Close()
	}
	return got, texts
}

// TestTornTailLosesNothingBefore tears the last record at every octet, with the
// watermark lost as after a power failure.
func TestTornTailLosesNothingBefore(t *testing.T) {
	t.Parallel()
	im := deadSegment(t, 3)
	last := im.ids[2]
	for _, how := range []string{"cut", "zeros", "noise"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			for at := im.ends[2]; at >= im.ends[1]; at -= historyShare { // the whole record too
				b := im.watermark(t, recordsAt)
				switch how {
				case "cut":
					b = b[:at]
				case "zeros":
					clear(b[at:])
				case "noise":
					for i := at; i < im.ends[2]; i++ {
						b[i] ^= 0x5a
					}
				}
				_, texts := takeOver(t, b)
				for _, id := range im.ids[:2] {
					if texts[id] != im.texts[id] {
						t.Fatalf("torn at %d: %s reads %q", at, id, texts[id])
					}
				}
				// Whole but for its padding, it counts.
				text, there := texts[last]
				content := int64(len(im.texts[last]))
				whole := at >= im.ends[1]+recordHeaderSize+envelopeSize(t, b, im, 2)+content
				if there && text != im.texts[last] {
					t.Fatalf("torn at %d: the last record reads %q", at, text)
				}
				if how != "zeros" && there != whole && !(how == "cut" && at < im.ends[2]) {
					t.Fatalf("torn at %d: last record there %v, want %v", at, there, whole)
				}
				if !there && at == im.ends[2] {
					t.Fatal("the whole last record is not there")
				}
			}
		})
	}
}

func envelopeSize(t *testing.T, _ []byte, im image, i int) int64 {
	t.Helper()
	h, err := readSegmentHeader(bytes.NewReader(im.bytes))
	if err != nil {
		t.Fatal(err)
	}
	rec, ok := parseRecordHeader(im.bytes[im.ids[i].Offset():], h.salt, im.ids[i])
	if !ok {
		t.Fatal("no record")
	}
	return int64(rec.envelope)
}

// TestFlippedBitHarmsOneMessage flips a bit of every octet of the middle record
// and of the segment's own fields.
func TestFlippedBitHarmsOneMessage(t *testing.T) {
	t.Parallel()
	im := deadSegment(t, 3)
	var places []int64
	for at := im.ends[0]; at < im.ends[1]; at++ {
		places = append(places, at)
	}
	for at := range int64(verdictsAt + 8) {
		if at < segmentHeaderSize || at >= watermarkAt && at < watermarkAt+watermarkSize || at >= sealAt && at < sealAt+sealSize ||
			at >= headerCopyAt && at < headerCopyAt+segmentHeaderSize || at >= verdictsAt {
			places = append(places, at)
		}
	}
	for _, at := range places {
		b := bytes.Clone(im.bytes)
		b[at] ^= 1 << (at % 8)
		got, texts := takeOver(t, b)
		for i, id := range im.ids {
			inside := i == 1 && at >= im.ends[0]
			text, there := texts[id]
			if !inside && text != im.texts[id] {
				t.Errorf("flip at %d: %s reads %q", at, id, text)
			}
			if inside && there && text != im.texts[id] && text != "damaged" {
				t.Errorf("flip at %d: %s reads %q", at, id, text)
			}
			if got.ids[id] > 1 {
				t.Errorf("flip at %d: %s came %d times", at, id, got.ids[id])
			}
		}
		if len(texts) > len(im.ids) {
			t.Errorf("flip at %d: invented mail: %v", at, texts)
		}
	}
}

func TestDamagedSegmentIsSetAside(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(im image) []int64{
		"both headers": func(image) []int64 { return []int64{3, headerCopyAt + 3} },
		// And the footer, which has a copy of it.
		"an envelope": func(im image) []int64 { return []int64{im.ends[0] + recordHeaderSize + 3, im.ends[2] + 1} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im := deadSegment(t, 3)
			dir := t.TempDir()
			o := smallStore(t, nil)
			o.byHand = true
			s := openStore(t, dir, o)
			s.Close()
			path := filepath.Join(dir, segmentsDir, segmentName(1))
			if err := os.WriteFile(path, im.bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, o)
			newSeen().load(t, s)
			settle(t, s, im.ids[0], Delivered, 0) // the journal knows one of them
			s.Close()
			for _, off := range at(im) {
				flip(t, path, off)
			}
			s = openStore(t, dir, o)
			got := newSeen()
			got.load(t, s)
			for id := range got.ids {
				for i, st := range got.states[id] {
					if st.Status == Queued {
						settle(t, s, id, Delivered, uint32(i))
					}
				}
			}
			if err := s.rotate(); err != nil {
				t.Fatal(err)
			}
			s.upkeep()
			for _, off := range at(im) {
				flip(t, path, off) // repaired
			}
			_, again := reopened(t, s, dir, o)
			for _, id := range im.ids {
				if got.ids[id]+again.ids[id] != 1 {
					t.Errorf("%s came %d times before the repair and %d after", id, got.ids[id], again.ids[id])
				}
			}
			if st := again.states[im.ids[0]]; name == "both headers" && (len(st) != 2 || st[0].Status != Delivered) {
				t.Errorf("states are forgotten: %v", st)
			}
		})
	}
}

// journalImage is a journal with three frames, about recipients 0 to 2 of one
// message, of which the first was synced before the third was written.
func journalImage(t *testing.T) (segment, journal []byte, id ID, ends []int64) {
	t.Helper()
	dir := t.TempDir()
	files := &faultFS{root: dir, quick: true}
	w := openWriter(t, dir, smallWriter(t, files))
	r := post(t, w, 1, 3)
	release(t, r)
	o := smallStore(t, files)
	o.byHand = true // no sync but ours
	s := openStore(t, dir, o)
	newSeen().load(t, s)
	ends = append(ends, framesAt)
	for i := range uint32(3) {
		if i == 2 {
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, s, r.ID(), Delivered, i)
		ends = append(ends, s.journal.size())
	}
	var err error
	if segment, err = os.ReadFile(s.tree.segment(1)); err != nil {
		t.Fatal(err)
	}
	if journal, err = os.ReadFile(s.journal.name); err != nil {
		t.Fatal(err)
	}
	return segment, journal, r.ID(), ends
}

// replayed starts an agent on these files and returns the recipients that are
// still queued.
func replayed(t *testing.T, segment, journal []byte, id ID) (queued string, err error) {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	files := &faultFS{root: dir, quick: true}
	if _, err := openTree(files, dir); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"segments/00000001": segment, "journal/00000001.journal": journal} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := smallStore(t, files)
	o.Logger, o.journalStep, o.byHand = nil, 512, true
	// Twice: what one start cuts off must not trouble the next.
	for range 2 {
		s, err := OpenStore(dir, o)
		if err != nil {
			return "", err
		}
		got := newSeen()
		got.load(t, s)
		s.Close()
		queued = ""
		for i, st := range got.states[id] {
			if st.Status == Queued {
				queued += fmt.Sprint(i)
			}
		}
	}
	return queued, nil
}

func TestTornJournalTailIsTolerated(t *testing.T) {
	t.Parallel()
	segment, journal, id, ends := journalImage(t)
	for at := ends[2]; at <= ends[3]; at++ {
		for _, fill := range []byte{0, 0xff} {
			b := bytes.Clone(journal)
			for i := at; i < ends[3]; i++ {
				b[i] = fill
			}
			queued, err := replayed(t, segment, b, id)
			if err != nil {
				t.Fatalf("torn at %d: %v", at, err)
			}
			if queued != "2" && queued != "" || at == ends[3] && queued != "" {
				t.Fatalf("torn at %d: recipients %q are queued", at, queued)
			}
		}
	}
}

func TestLostJournalFrameIsToldFromATornTail(t *testing.T) {
	t.Parallel()
	segment, journal, id, ends := journalImage(t)
	for at := ends[0]; at < ends[3]; at++ {
		b := bytes.Clone(journal)
		b[at] ^= 4
		queued, err := replayed(t, segment, b, id)
		switch {
		case at >= ends[2]: // never known to be synced
			if err != nil {
				t.Errorf("flip at %d: %v", at, err)
			}
		case err == nil && queued != "": // flips in padding harm nothing
			t.Errorf("flip at %d: recipients %q are queued without a word", at, queued)
		case err != nil && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "journal/00000001.journal")):
			t.Errorf("flip at %d: %v", at, err)
		}
	}
	// The first two were not synced when the second was written; lost together
	// with the third, they are a tail that a power failure took.
	b := bytes.Clone(journal)
	b[ends[0]] ^= 4
	clear(b[ends[2]:])
	if queued, err := replayed(t, segment, b, id); err != nil || queued != "012" {
		t.Errorf("unsynced frames lost: recipients %q, %v", queued, err)
	}
}
