package ledger

import (
	"crypto/sha256"
	"strings"
	"testing"
)

func digestOf(pieces ...string) (string, Hash, int64) {
	var d Digest
	for _, p := range pieces {
		d.Write([]byte(p))
	}
	id, h := d.Sum()
	return string(id), h, d.Above()
}

func hashOf(s string) Hash {
	sum := sha256.Sum256([]byte(s))
	return Hash(sum[:16])
}

func TestDigestStartsAtLabHeader(t *testing.T) {
	t.Parallel()
	trace := "Received: from a\r\n\tby b\r\nDKIM-Signature: x\r\n"
	sent := "x-lab-id:  b-1 \r\nReceived: from c\r\nSubject: s\r\n\r\nbody\r\n"
	id, h, above := digestOf(trace + sent)
	if id != "b-1" || h != hashOf(sent) || above != int64(len(trace)) {
		t.Errorf("got %q %v %d", id, h, above)
	}
}

func TestDigestWithoutLabHeaderSkipsReceivedOnTop(t *testing.T) {
	t.Parallel()
	top := "Received: from a\r\n by b\r\nReceived: from c\r\n"
	rest := "From: x\r\nReceived: lower\r\nMessage-Id: <m@x>\r\n\r\nX-Lab-ID: in the body\r\n"
	id, h, above := digestOf(top + rest)
	if id != "<m@x>" || h != hashOf(rest) || above != int64(len(top)) {
		t.Errorf("got %q %v %d", id, h, above)
	}
}

func TestDigestOfHeaderOnly(t *testing.T) {
	t.Parallel()
	id, h, _ := digestOf("Received: a\r\nMessage-ID: <1>\r\n")
	if id != "<1>" || h != hashOf("Message-ID: <1>\r\n") {
		t.Errorf("got %q %v", id, h)
	}
	if _, h, _ := digestOf(); h != hashOf("") {
		t.Errorf("empty message: %v", h)
	}
}

func TestDigestIsReusable(t *testing.T) {
	t.Parallel()
	var d Digest
	d.Write([]byte("A: b\r\nX-Lab-ID: 1\r\n\r\nx"))
	d.Sum()
	d.Reset()
	d.Write([]byte("\r\nbody"))
	if id, h := d.Sum(); len(id) != 0 || h != hashOf("\r\nbody") || d.Above() != 0 || d.Size() != 6 || d.Labelled() {
		t.Errorf("after Reset: %q %v %d %d", id, h, d.Above(), d.Size())
	}
}

func TestDigestGivesUpOnEndlessHeader(t *testing.T) {
	t.Parallel()
	endless := "Received: " + strings.Repeat("x", maxHeader) + "\r\nX-Lab-ID: late\r\n\r\n"
	if id, h, _ := digestOf(endless); id != "late" || h != hashOf("X-Lab-ID: late\r\n\r\n") {
		t.Errorf("in one piece: %q %v", id, h)
	}
	if id, h, _ := digestOf(endless[:maxHeader+5], endless[maxHeader+5:]); id != "" || h != hashOf(endless) {
		t.Errorf("in two pieces: %q %v", id, h)
	}
}

// However a message is cut into pieces, its digest is the same.
func FuzzDigestPieces(f *testing.F) {
	f.Add("Received: a\r\n b\r\nX-Lab-ID: 7\r\n\r\nbody\r\n", uint16(3), uint16(20))
	f.Add("Received: a\r\nSubject: x\r\nMessage-ID: <1>\r\n\r\n", uint16(12), uint16(13))
	f.Add(" \n\r\n", uint16(1), uint16(2))
	f.Fuzz(func(t *testing.T, s string, a, b uint16) {
		i, j := int(a)%(len(s)+1), int(b)%(len(s)+1)
		i, j = min(i, j), max(i, j)
		id1, h1, above1 := digestOf(s)
		id2, h2, above2 := digestOf(s[:i], s[i:j], s[j:])
		if id1 != id2 || h1 != h2 || above1 != above2 {
			t.Errorf("whole %q %v %d, in pieces %q %v %d", id1, h1, above1, id2, h2, above2)
		}
	})
}
