package trace

import (
	"bytes"
	"net/mail"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

var (
	key  = []byte("0123456789abcdef")
	keys = NewKeys(key)
)

func envelope() *spool.Envelope {
	return &spool.Envelope{
		QueueID:    "4XyZ1",
		ClientName: "app.example.com",
		ClientAddr: "192.0.2.7",
		Helo:       "app",
		Protocol:   "ESMTPSA",
		ByHost:     "mail.example.com",
		Arrived:    time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("CET", 3600)),
		Recipients: []spool.Recipient{{Address: "ann@example.net"}},
	}
}

func TestReceivedReadsLikePostfixes(t *testing.T) {
	t.Parallel()
	got := string(Received(envelope(), spool.MakeID(0x1a, 0x3f0040), "other", &keys, []uint32{0}))
	seal := keys.seals[0].sealed(envelope(), "M1A-3F0040", "4XyZ1", []uint32{0})
	want := "Received: from app (app.example.com [192.0.2.7])\r\n" +
		"\tby mail.example.com (Millrace) with ESMTPSA\r\n" +
		"\tid 4XyZ1.M1A-3F0040." + mac(key, "M1A-3F0040", "4XyZ1") + "\r\n" +
		"\t(" + seal + ")\r\n" +
		"\tfor <ann@example.net>;\r\n" +
		"\tWed, 04 Mar 2026 04:06:07 +0000 (UTC)\r\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	_, date, _ := strings.Cut(got, ";")
	if _, err := mail.ParseDate(strings.TrimSpace(date)); err != nil {
		t.Errorf("date: %v", err)
	}
}

func TestReceivedOfSendmailCommandHasNoFrom(t *testing.T) {
	t.Parallel()
	e := envelope()
	e.Protocol, e.ClientAddr, e.ClientName, e.Helo, e.ByHost = "", "", "", "", ""
	got := string(Received(e, 1, "host.example", &keys, []uint32{0}))
	if !strings.HasPrefix(got, "Received: by host.example (Millrace)\r\n\tid 4XyZ1.M0-1.") {
		t.Errorf("got %q", got)
	}
}

func TestReceivedNamesNoRecipientAmongSeveral(t *testing.T) {
	t.Parallel()
	e := envelope()
	e.Recipients = append(e.Recipients, spool.Recipient{Address: "bob@example.net"})
	if got := Received(e, 1, "h", &keys, []uint32{0, 1}); bytes.Contains(got, []byte("example.net")) {
		t.Errorf("a recipient is shown: %s", got)
	}
}

func TestMarkSurvivesRefolding(t *testing.T) {
	t.Parallel()
	field := string(Received(envelope(), 77, "h", &keys, []uint32{0}))
	value := strings.TrimPrefix(field, "Received:")
	flat := regexp.MustCompile(`\s+`).ReplaceAllString(value, " ")
	for _, v := range []string{value, flat, strings.ReplaceAll(value, "\r\n", "\n")} {
		if !Marked(v, key) {
			t.Errorf("mark not found in %q", v)
		}
		if Marked(v, []byte("another key")) {
			t.Errorf("mark accepted under another key")
		}
	}
	for _, v := range []string{
		strings.Replace(value, "4XyZ1", "4XyZ2", 1),
		strings.Replace(value, "M0-4D", "M0-4E", 1),
		"from a by b id 4XyZ1; Wed, 04 Mar 2026 04:06:07 +0000",
		"", "id", "id ..", "id a.b.",
	} {
		if Marked(v, key) {
			t.Errorf("mark found in %q", v)
		}
	}
}

var shape = regexp.MustCompile(`\AReceived: (from [^\s()]+ \([^\s()]+ \[[^\s()]+\]\)\r\n\t)?by [^\s()]+ \(Millrace\)( with [^\s()]+)?\r\n` +
	`\tid [A-Za-z0-9_-]+\.M[0-9A-F]+-[0-9A-F]+\.[0-9a-f]{20}(\r\n\t\([A-Za-z0-9_-]+\))?(\r\n\tfor <[^\s()<>]+>)?;\r\n\t[^\r\n]+\r\n\z`)

// Whatever an envelope holds, the field keeps its shape and its mark.
func FuzzReceived(f *testing.F) {
	f.Add("4XyZ1", "app.example.com", "192.0.2.7", "app", "ESMTP", "mail", "ann@example.net")
	f.Add("a\r\nX: y", "c)(", "IPv6:::1", "evil\r\n\r\nbody", "", "", "a@b>\r\nBcc: c")
	f.Add("", "", "", "", "", "", "")
	f.Add("ü", "ü", "ü", "ü (", "ü", "ü", "ü@ü")
	f.Fuzz(func(t *testing.T, qid, name, addr, helo, proto, by, rcpt string) {
		e := &spool.Envelope{QueueID: qid, ClientName: name, ClientAddr: addr, Helo: helo, Protocol: proto, ByHost: by,
			Recipients: []spool.Recipient{{Address: rcpt}}, Arrived: time.Unix(1790000000, 0)}
		got := Received(e, 5, "host", &keys, []uint32{0})
		if !shape.Match(got) {
			t.Fatalf("bad shape: %q", got)
		}
		if !bytes.Equal(got, Received(e, 5, "host", &keys, []uint32{0})) {
			t.Fatal("two writes differ")
		}
		if !Marked(strings.TrimPrefix(string(got), "Received:"), key) {
			t.Fatalf("own mark not found: %q", got)
		}
		if m, ok := keys.Read(strings.TrimPrefix(string(got), "Received:")); !ok || m.Sealed && m.Recipient != rcpt {
			t.Fatalf("the mark says %+v: %q", m, got)
		}
	})
}

// One field of a stranger costs no more hashes than the trace of a hop may need.
func TestManyMarksInOneFieldAreNotLookedAt(t *testing.T) {
	t.Parallel()
	forged := " id A.M1-1.x (AAAAAAAAAAAAAAAA)"
	ours := strings.TrimPrefix(string(Received(envelope(), 7, "h", &keys, []uint32{0})), "Received:")
	for n, want := range map[int]bool{0: true, maxMarks - 1: true, maxMarks: false, 100_000: false} {
		v := strings.Repeat(forged, n) + ours
		if _, ok := keys.Read(v); ok != want || Marked(v, key) != want {
			t.Errorf("behind %d others: %v, %v", n, ok, Marked(v, key))
		}
	}
}
