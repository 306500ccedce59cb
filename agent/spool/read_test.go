package spool

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestMessageIsEnvelopeAndContent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := openWriter(t, dir, smallWriter(t, nil))
	texts := map[ID]string{}
	// About the size of what is read ahead, and large ones.
	for _, n := range []int{0, 10, windowSize - 500, windowSize - 200, windowSize, 3 * windowSize, blobSize + 1} {
		e, _ := letter(len(texts), 1)
		text := "Subject: x\r\n\r\n" + strings.Repeat("y", n)
		r, err := w.Append(t.Context(), e, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
		texts[r.ID()] = text
	}
	w.Close()
	s := openStore(t, dir, smallStore(t, nil))
	newSeen().load(t, s)
	for range 2 { // windows are used again
		for id, want := range texts {
			e, c, err := s.Message(id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			if cerr := c.Close(); err != nil || cerr != nil || string(got) != want {
				t.Errorf("%s: %d octets, want %d: %v, %v", id, len(got), len(want), err, cerr)
			}
			other, err := s.Envelope(id)
			if err != nil || !reflect.DeepEqual(e, other) {
				t.Errorf("%s: envelope %+v, want %+v, %v", id, e, other, err)
			}
		}
	}
	if _, _, err := s.Message(MakeID(99, 99)); !errors.Is(err, ErrNotFound) {
		t.Errorf("a message that is not there: %v", err)
	}
}

// TestEnvelopeIsOneRead: an admin's verb may ask for hundreds of thousands of envelopes.
func TestEnvelopeIsOneRead(t *testing.T) {
	t.Parallel()
	dir, ids := sealedSegment(t)
	files := &readFS{}
	s := openStore(t, dir, smallStore(t, files))
	newSeen().load(t, s)
	for id, want := range ids {
		files.reads = nil
		e, err := s.Envelope(id)
		if err != nil || fmt.Sprintf("%+v", e) != want {
			t.Errorf("%s: %+v, %v", id, e, err)
		}
		if n := len(files.reads); n != 1 && len(want) < envelopeWindow {
			t.Errorf("%s: %d reads", id, n)
		}
	}
}
