package trace

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

func letter() *spool.Envelope {
	e := envelope()
	e.Stream = "news.example.com"
	e.Recipients = []spool.Recipient{{Address: "Ann@example.net"}, {Address: "bob@example.net"}, {Address: "cleo@example.org"}}
	return e
}

func value(field []byte) string { return strings.TrimPrefix(string(field), "Received:") }

// The mark of a transaction of one proves whom the copy was for, of which stream, and when
// the message came; for nobody else, and under no other key.
func TestMarkTellsItsRecipient(t *testing.T) {
	t.Parallel()
	v := value(Received(letter(), 77, "h", &keys, []uint32{2}))
	if strings.Contains(v, "cleo") || strings.Contains(v, "news.example.com") {
		t.Errorf("the mark shows what it seals: %s", v)
	}
	m, ok := keys.Read(v)
	want := time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
	if !ok || !m.Sealed || m.ID != 77 || m.QueueID != "4XyZ1" || m.Recipient != "cleo@example.org" || m.Ordinal != 2 ||
		m.Stream != "news.example.com" || !m.Day.Equal(want) {
		t.Errorf("%v, %+v", ok, m)
	}
	if !m.For("CLEO@example.org") || m.For("bob@example.net") || m.For("") {
		t.Error("for another, or not for its own")
	}
	other := NewKeys([]byte("another key"))
	if _, ok := other.Read(v); ok {
		t.Error("read under another key")
	}
	if again := value(Received(letter(), 77, "h", &keys, []uint32{2})); again != v {
		t.Error("two writes differ")
	}
}

func TestMarkOfSeveralKnowsEach(t *testing.T) {
	t.Parallel()
	m, ok := keys.Read(value(Received(letter(), 77, "h", &keys, []uint32{0, 1})))
	if !ok || !m.Sealed || m.Recipient != "" || m.Stream != "news.example.com" {
		t.Errorf("%v, %+v", ok, m)
	}
	if !m.For("ann@example.net") || !m.For("bob@example.net") || m.For("cleo@example.org") || m.For("") {
		t.Error("for another, or not for its own")
	}
}

// What of a mark is changed, or taken from another, makes it none.
func TestMarkIsOfOnePiece(t *testing.T) {
	t.Parallel()
	v := value(Received(letter(), 77, "h", &keys, []uint32{2}))
	o := value(Received(letter(), 78, "h", &keys, []uint32{1}))
	mark := func(v string) written {
		for x := range ids(v) {
			return x
		}
		return written{}
	}
	x, other := mark(v), mark(o)
	x.sum = "" // what is sealed holds without it
	for name, w := range map[string]written{
		"another's seal":      {x.qid, x.id, "", other.sealed},
		"another queue id":    {"4XyZ2", x.id, "", x.sealed},
		"another message":     {x.qid, "M0-4E", "", x.sealed},
		"cut short":           {x.qid, x.id, "", x.sealed[:len(x.sealed)-1]},
		"one bit":             {x.qid, x.id, "", strings.ToUpper(x.sealed[:20]) + x.sealed[20:]},
		"far too long":        {x.qid, x.id, "", strings.Repeat("A", 5000)},
		"nothing but the ids": {x.qid, x.id, "", ""},
	} {
		if m, ok := keys.Read("by h id " + w.qid + "." + w.id + "." + w.sum + "\r\n\t(" + w.sealed + "); x"); ok {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if m, ok := keys.Read("by h id " + x.qid + "." + x.id + ".0 (" + x.sealed + "); x"); !ok || m.Recipient != "cleo@example.org" {
		t.Errorf("as it was: %v, %+v", ok, m)
	}
}

// Hosts with a secret in common read each other's marks, also those made with an older
// one, and know none of them for their own mail.
func TestHostsShareTheSealAndNotTheLoop(t *testing.T) {
	t.Parallel()
	fresh, old := []byte("the shared secret of today......"), []byte("and the one that it has replaced")
	a, before, b := NewKeys([]byte("host a"), fresh, old), NewKeys([]byte("host a"), old), NewKeys([]byte("host b"), fresh, old)
	for name, k := range map[string]Keys{"with the new secret": a, "with the old one": before} {
		v := value(Received(letter(), 77, "h", &k, []uint32{1}))
		if m, ok := b.Read(v); !ok || m.Recipient != "bob@example.net" {
			t.Errorf("%s: %v, %+v", name, ok, m)
		}
		if Marked(v, b.Loop) {
			t.Errorf("%s: taken for mail that was at b before", name)
		}
	}
	alone := NewKeys([]byte("host a"))
	if m, ok := a.Read(value(Received(letter(), 77, "h", &alone, []uint32{1}))); !ok || !m.Sealed {
		t.Error("what was sealed before there was a shared secret cannot be read")
	}
}

// A version that knows nothing of seals knows the mark, and its marks are known.
func TestMarksOfOtherVersions(t *testing.T) {
	t.Parallel()
	v := value(Received(letter(), 77, "h", &keys, []uint32{1}))
	if !Marked(v, key) {
		t.Error("the mark is not known by its hash")
	}
	m, ok := keys.Read("by h (Millrace)\r\n\tid 4XyZ1.M1A-3F0040." + mac(key, "M1A-3F0040", "4XyZ1") + ";\r\n\tx")
	if !ok || m.Sealed || m.ID != spool.MakeID(0x1a, 0x3f0040) || m.For("ann@example.net") {
		t.Errorf("a mark of an earlier version: %v, %+v", ok, m)
	}
}

func TestMarkOfTooManyIsPlain(t *testing.T) {
	t.Parallel()
	e := letter()
	e.Recipients = nil
	var to []uint32
	for i := range uint32(101) {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("u%d@example.net", i)})
		to = append(to, i)
	}
	for n, sealed := range map[int]bool{90: true, 101: false} {
		field := Received(e, 77, "h", &keys, to[:n])
		m, ok := keys.Read(value(field))
		if !ok || m.Sealed != sealed {
			t.Errorf("%d recipients: %v, %+v", n, ok, m)
		}
		for line := range strings.SplitSeq(string(field), "\r\n") {
			if len(line) > 998 {
				t.Errorf("a line of %d octets", len(line))
			}
		}
	}
}

func BenchmarkReceived(b *testing.B) {
	e := letter()
	for b.Loop() {
		Received(e, 77, "h", &keys, []uint32{2})
	}
}

func BenchmarkReceivedOf50(b *testing.B) {
	e := letter()
	e.Recipients = nil
	var to []uint32
	for i := range uint32(50) {
		e.Recipients = append(e.Recipients, spool.Recipient{Address: fmt.Sprintf("u%d@example.net", i)})
		to = append(to, i)
	}
	for b.Loop() {
		Received(e, 77, "h", &keys, to)
	}
}

// Hosts of a fleet read each other's marks, with and without a secret in common, and tell
// whose each is.
func TestMarksOfMembersAreKnown(t *testing.T) {
	t.Parallel()
	shared := []byte("a secret of all hosts, 32 octets")
	keyA, keyB, keyC := []byte("the loop key of a"), []byte("the loop key of b"), []byte("the loop key of c")
	members := []Member{{"c", keyC}, {"a", keyA}}
	for name, secrets := range map[string][][]byte{"each its own": nil, "a secret in common": {shared}} {
		a, b := NewKeys(keyA, secrets...), NewKeys(keyB, secrets...)
		alone := value(Received(letter(), 77, "h", &a, []uint32{1}))
		among := value(Received(letter(), 77, "h", &a, []uint32{0, 1}))
		of := b.With(members)
		if m, ok := of.Read(alone); !ok || m.Node != "a" || m.Recipient != "bob@example.net" || m.Stream != letter().Stream {
			t.Errorf("%s: %v, %+v", name, ok, m)
		}
		if m, ok := of.Read(among); !ok || m.Node != "a" || !m.For("bob@example.net") || m.For("cleo@example.org") {
			t.Errorf("%s, of several: %v, %+v", name, ok, m)
		}
		if !of.Marked(alone) || b.Marked(alone) || !a.Marked(alone) {
			t.Errorf("%s: here before: %v; without the fleet %v", name, of.Marked(alone), b.Marked(alone))
		}
		if m, ok := b.Read(alone); ok != (secrets != nil) || m.Node != "" {
			t.Errorf("%s, without the fleet: %v, %+v", name, ok, m)
		}
		own := value(Received(letter(), 78, "h", &b, []uint32{1}))
		if m, ok := of.Read(own); !ok || m.Node != "" || !m.Sealed {
			t.Errorf("%s, its own: %v, %+v", name, ok, m)
		}
		gone := of.With(nil)
		if gone.Marked(alone) {
			t.Errorf("%s: a member that is none any more is known", name)
		}
		for _, forged := range []string{strings.Replace(alone, "M0-4D", "M0-4E", 1), strings.Replace(among, "4XyZ1", "4XyZ2", 1)} {
			if m, ok := of.Read(forged); ok || of.Marked(forged) {
				t.Errorf("%s: forged: %+v", name, m)
			}
		}
	}
}
