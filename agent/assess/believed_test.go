package assess

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"github.com/millrace/millrace/agent/feedback"
	"github.com/millrace/millrace/agent/spool"
	"github.com/millrace/millrace/agent/trace"
)

const drop = "[suppression]\nmode = \"drop\"\nafter = 1\n"

func postfix(t *testing.T, m sent, rcpt string) []byte {
	b, _ := dialect(t, "seen/postfix.eml", m, rcpt)
	return b
}

func arf(t *testing.T, m sent, rcpt string) []byte {
	b, _ := dialect(t, "seen/arf-yahoo.eml", m, rcpt)
	return b
}

// Bob has one genuine copy. Whatever he makes of it, nobody but himself is touched.
func TestOneCopyChangesNothingForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	alone, among := message(1, bob), message(2, ann, bob)
	among.only = []uint32{0, 1}
	part := message(3, ann, bob)
	part.only = []uint32{1} // a message of two, a transaction of one
	redacted, _ := dialect(t, "seen/arf-redacted.eml", among, bob)
	for name, b := range map[string][]byte{
		"a bounce of ann":                    postfix(t, alone, ann),
		"a complaint of ann":                 arf(t, alone, ann),
		"a bounce of ann, who had the same":  postfix(t, among, ann),
		"a complaint of ann, likewise":       arf(t, among, ann),
		"his own, by the same":               postfix(t, among, bob),
		"a complaint of nobody":              redacted,
		"ann's, by his copy of the message":  postfix(t, part, ann),
		"cleo's, whom the message was never": arf(t, among, cleo),
	} {
		for _, f := range w.take(b) {
			if f.Result != Uncounted && f.Result != Repeated || f.Why == "" {
				t.Errorf("%s: %+v", name, f)
			}
			if (f.Recipient == ann) != strings.Contains(name, "ann, ") {
				t.Errorf("%s: told of %q", name, f.Recipient)
			}
		}
	}
	if l := w.listed(); len(l) != 0 {
		t.Errorf("listed: %v", l)
	}
	for _, d := range w.told() {
		if d.Uncounted == "" {
			t.Errorf("event %+v", d)
		}
	}
	// His own copies count for himself.
	for _, m := range []sent{alone, part} {
		if f := w.only(postfix(t, m, "Bob@Remote.Example")); f.Result != Counted || f.Stream != stream {
			t.Errorf("%+v", f)
		}
	}
	if l := w.listed(); !slices.Equal(l, []string{stream + " " + bob}) {
		t.Errorf("listed: %v", l)
	}
}

// What is forged, of another host, or of an earlier version changes nothing; the first two
// are no event either.
func TestForgedReportsChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	genuine := message(1, bob).field()
	forged := message(2, bob)
	forged.received = strings.Replace(genuine, "M1-1.", "M1-2.", 1)
	foreign := message(1, bob)
	foreign.keys = trace.NewKeys([]byte("another host"))
	cut := message(1, bob)
	cut.received = "Received: by mail.lists.example (Millrace)\r\n\tid 4Q1.M1-1;\r\n\tx\r\n"
	for name, m := range map[string]sent{"another message": forged, "another host": foreign, "without a hash": cut} {
		for _, b := range [][]byte{postfix(t, m, bob), arf(t, m, bob)} {
			if f := w.only(b); f.Result != Unverified {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
	if e, l := w.told(), w.listed(); len(e) != 0 || len(l) != 0 {
		t.Errorf("events %+v, listed %v", e, l)
	}
	if c := w.a.Counts(); c[Count{LateBounce, Unverified}] != 3 || c[Count{Complaint, Unverified}] != 3 {
		t.Errorf("counted: %v", c)
	}
	if _, err := w.a.Take(t.Context(), []byte("Subject: hello\r\n\r\ntext\r\n"), time.Now()); err != feedback.ErrNone {
		t.Errorf("a letter: %v", err)
	}
}

// A report counts once for each message, recipient and kind, over restarts too.
func TestReplaysChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "[suppression]\nmode = \"drop\"\nafter = 3\n")
	one, two := message(1, bob), message(2, bob)
	for range 5 {
		w.take(postfix(t, one, bob))
		w.restart()
		exim, _ := dialect(t, "seen/exim.eml", one, bob) // the same in other words
		w.take(exim)
	}
	w.take(postfix(t, one, "BOB@remote.example"))
	w.take(postfix(t, one, "bob@remote.e\u00d7ample"))
	w.take(postfix(t, message(9, "susi@remote.example"), "susi@remote.example"))
	w.take(postfix(t, message(9, "susi@remote.example"), "\u017fusi@remote.example")) // a long s
	if e := w.told(); len(e) != 3 || e[1].Uncounted == "" {
		t.Errorf("%d events of one report, one of another recipient, and one of another message: %+v", len(e), e)
	}
	if _, is := w.bounced.Check(stream, bob, time.Now()); is {
		t.Error("one message bounced three times")
	}
	if f := w.only(arf(t, one, bob)); f.Result != Counted {
		t.Errorf("a complaint about the same message: %+v", f)
	}
	if f := w.only(postfix(t, two, bob)); f.Result != Counted {
		t.Errorf("another message: %+v", f)
	}
	old := message(3, bob)
	old.arrived = time.Now().Add(-MaxAge - 49*time.Hour)
	if f := w.only(postfix(t, old, bob)); f.Result != Old {
		t.Errorf("an old message: %+v", f)
	}
}

// What each kind does to the list, by the mode of the stream.
func TestModeOfTheStreamSaysWhatCounts(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]struct{ listed, checked bool }{"off": {}, "advise": {true, false}, "drop": {true, true}} {
		w := newWorld(t, "[suppression]\nmode = \"drop\"\nafter = 1\n[[suppression.stream]]\nname = \""+stream+"\"\nmode = \""+mode+"\"\n")
		w.take(arf(t, message(1, bob), bob))
		if l := w.listed(); (len(l) > 0) != want.listed {
			t.Errorf("%s: %v", mode, l)
		}
		if _, is := w.bounced.Check(stream, bob, time.Now()); is != want.checked {
			t.Errorf("%s: suppressed %v", mode, is)
		}
		// It is the stream's own; and a delivery does not undo what came late.
		if _, is := w.bounced.Check("other", bob, time.Now()); is {
			t.Errorf("%s: in another stream", mode)
		}
		w.bounced.Delivered(stream, bob, time.Now())
		if _, is := w.bounced.Check(stream, bob, time.Now()); is != want.checked {
			t.Errorf("%s: after a delivery %v", mode, is)
		}
	}
}

// signedBy signs a report as a receiver of a domain.
func (w *world) signedBy(domain string, b []byte, fields ...string) []byte {
	w.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.keys["s._domainkey."+domain] = []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}
	w.mu.Unlock()
	if fields == nil {
		fields = []string{"From", "Subject", "To", "Content-Type"}
	}
	var out bytes.Buffer
	if err := dkim.Sign(&out, bytes.NewReader(b), &dkim.SignOptions{Domain: domain, Selector: "s", Signer: private, HeaderKeys: fields}); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

// Where several had the same copy the receiver's own signature has a report count: of its
// domain, by one of its programs, over what says how the report is to be read.
func TestReceiversSignatureSpeaksForOneOfSeveral(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sign func(w *world, b []byte) []byte
		want Result
	}{
		"the receiver":      {func(w *world, b []byte) []byte { return w.signedBy("remote.example", b) }, Counted},
		"a part of it":      {func(w *world, b []byte) []byte { return w.signedBy("mail.remote.example", b) }, Counted},
		"nobody":            {func(_ *world, b []byte) []byte { return b }, Uncounted},
		"somebody else":     {func(w *world, b []byte) []byte { return w.signedBy("lists.example", b) }, Uncounted},
		"a neighbour":       {func(w *world, b []byte) []byte { return w.signedBy("remote.example.net", b) }, Uncounted},
		"changed after it":  {func(w *world, b []byte) []byte { return append(w.signedBy("remote.example", b), "x\r\n"...) }, Uncounted},
		"not over the type": {func(w *world, b []byte) []byte { return w.signedBy("remote.example", b, "From", "To") }, Uncounted},
		"a user of the receiver": {func(w *world, b []byte) []byte {
			b = bytes.Replace(b, []byte("From: MAILER-DAEMON@"), []byte("From: bob@"), 1)
			return w.signedBy("remote.example", b)
		}, Uncounted},
		"a user, with a program's name on top": {func(w *world, b []byte) []byte {
			b = bytes.Replace(b, []byte("From: MAILER-DAEMON@"), []byte("From: bob@"), 1)
			return append([]byte("From: mailer-daemon@remote.example\r\n"), w.signedBy("remote.example", b)...)
		}, Uncounted},
		"a key that is gone": {func(w *world, b []byte) []byte {
			b = w.signedBy("remote.example", b)
			clear(w.keys)
			return b
		}, Uncounted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, drop)
			b := c.sign(w, postfix(t, message(1, ann, bob), bob))
			f := w.only(b)
			if f.Result != c.want || f.Recipient != bob {
				t.Errorf("%+v", f)
			}
			want := []string{}
			if c.want == Counted {
				want = append(want, stream+" "+bob)
			}
			if l := w.listed(); !slices.Equal(l, want) {
				t.Errorf("listed: %v", l)
			}
			for _, name := range w.lookups {
				if !strings.HasSuffix(name, "remote.example") {
					t.Errorf("the DNS was asked for %s", name)
				}
			}
		})
	}
}

// The signature speaks for recipients of its own domain, and of the message.
func TestReceiversSignatureSpeaksForItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	for i, rcpt := range []string{cleo, "dave@remote.example"} {
		if f := w.only(w.signedBy("remote.example", postfix(t, message(uint32(i+1), ann, cleo), rcpt))); f.Result != Uncounted {
			t.Errorf("%s: %+v", rcpt, f)
		}
	}
	if l := w.listed(); len(l) != 0 {
		t.Errorf("listed: %v", l)
	}
}

// The receiver's signature covers what the receiver says of an address of its own, and not
// what a client had it write: Ann sends to a dead address of that receiver, with her copy of
// a message in it and Bob's address as the original one (ORCPT of RFC 3461), and the receiver
// signs its report on that.
func TestOriginalRecipientIsNotTheReceiversWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	of := func(m sent, final, original string) []byte {
		b := postfix(t, m, original)
		return w.signedBy("remote.example", bytes.Replace(b, []byte("Final-Recipient: rfc822; "+original), []byte("Final-Recipient: rfc822; "+final), 1))
	}
	among := message(1, ann, bob)
	if f := w.only(of(among, "nosuch@remote.example", bob)); f.Result != Uncounted || f.Recipient != bob || f.Why == "" {
		t.Errorf("%+v", f)
	}
	if l := w.listed(); len(l) != 0 {
		t.Errorf("listed: %v", l)
	}
	// Ann's own address has failed, whatever she calls the original one.
	if f := w.only(of(among, ann, bob)); f.Result != Counted || f.Recipient != ann {
		t.Errorf("%+v", f)
	}
	// Where the mark names one, it is that one's, under whatever name the mail was passed on.
	if f := w.only(of(message(2, bob), "b@store.remote.example", bob)); f.Result != Counted || f.Recipient != bob {
		t.Errorf("%+v", f)
	}
}

// What a signature asks for costs no more than one that hosts write: a list of names as long
// as the message, over as many fields, had taken half a minute.
func TestCostlySignaturesAreNotLookedAt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fields, names int
		want          Result
	}{
		"as hosts write": {60, 60, Counted},
		"many fields":    {maxSignedFields + 1, 10, Uncounted},
		"many names":     {60, maxSignedNames + 1, Uncounted},
		"much of both":   {20_000, 30_000, Uncounted},
	} {
		w := newWorld(t, drop)
		b := bytes.Replace(postfix(t, message(1, ann, bob), bob), []byte("\r\n\r\n"), []byte("\r\n"+strings.Repeat("a:x\r\n", c.fields)+"\r\n"), 1)
		fields := append([]string{"From", "Content-Type"}, slices.Repeat([]string{"b"}, c.names)...)
		if c.names > maxSignedNames {
			// To sign it would take as long.
			b = append([]byte("DKIM-Signature: v=1; a=ed25519-sha256; d=remote.example; s=s; bh=AAAA; b=AAAA;\r\n h="+strings.Join(fields, ":")+"\r\n"), b...)
		} else {
			b = w.signedBy("remote.example", b, fields...)
		}
		if f := w.only(b); f.Result != c.want {
			t.Errorf("%s: %+v", name, f)
		}
		if c.want == Uncounted && len(w.lookups) > 0 {
			t.Errorf("%s: its key is asked for", name)
		}
	}
}

// Hosts with a secret in common take each other's reports, also those on mail that was marked
// with the secret before.
func TestReportsOnMailOfOtherHostsCount(t *testing.T) {
	t.Parallel()
	fresh, old := []byte(strings.Repeat("n", 32)), []byte(strings.Repeat("o", 32))
	w := newWorld(t, drop)
	c := *w.options.Settings.Now().Config
	c.Feedback.Secrets = [][]byte{fresh, old}
	set := *w.options.Settings.Now()
	set.Config = &c
	w.options.Settings.Use(&set)
	for i, secret := range [][]byte{fresh, old} {
		m := message(uint32(i+1), bob)
		m.keys = trace.NewKeys([]byte("the key of another spool"), secret)
		if f := w.only(postfix(t, m, bob)); f.Result != Counted || f.Stream != stream {
			t.Errorf("%+v", f)
		}
	}
}

// Reports wait in the box while the agent is away, and are taken once.
func TestBoxIsEmptied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	for i := range 20 {
		if _, err := w.options.Box.Put(postfix(t, message(uint32(i+1), bob), bob), uint64(i), time.Unix(int64(i+1), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.options.Box.Put([]byte("Subject: none\r\n\r\n"), 0, time.Unix(99, 0)); err != nil {
		t.Fatal(err)
	}
	if err := w.a.empty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := w.options.Box.Waiting(); err != nil || len(list) != 0 {
		t.Errorf("%d are left, %v", len(list), err)
	}
	if e := w.told(); len(e) != 20 {
		t.Errorf("%d events", len(e))
	}
}

// A report that cannot be remembered is not counted, and stays for another time.
func TestReportWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	w.a.seen.path = "/proc/none/reports" // no file can be made there
	const n = 100
	looks := 0
	w.a.LookupKey = func(context.Context, string) ([]string, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		looks++
		return nil, errors.New("no such key")
	}
	for i := range n {
		b := w.signedBy("remote.example", postfix(t, message(uint32(i+1), ann, bob), bob))
		if _, err := w.options.Box.Put(b, uint64(i), time.Unix(int64(i+1), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.a.empty(t.Context()); err == nil {
		t.Error("no error")
	}
	if list, _ := w.options.Box.Waiting(); len(list) != n || len(w.told()) != 0 || len(w.listed()) != 0 {
		t.Errorf("%v waits", list)
	}
	// The others are not read, to no end, again each second: they would wait as well.
	if looks > 2*readers {
		t.Errorf("%d of %d were looked at", looks, n)
	}
}

// What is remembered and cannot be read keeps no agent from starting; reports wait until it can.
func TestReportWaitsForWhatIsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	w.take(postfix(t, message(1, bob), bob))
	path := filepath.Join(w.options.State, seenFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change([]byte("of another version\n"))
	w.restart()
	if _, err := w.a.Take(t.Context(), postfix(t, message(1, bob), bob), time.Now()); !errors.Is(err, errNotRemembered) || !strings.Contains(err.Error(), path) {
		t.Errorf("taken: %v", err)
	}
	change(append(whole, 7)) // and a record that was cut short
	if f := w.take(postfix(t, message(1, bob), bob)); len(f) != 1 || f[0].Result != Repeated {
		t.Errorf("%+v", f)
	}
	w.take(postfix(t, message(2, ann), ann))
	if b, err := os.ReadFile(path); err != nil || len(b) != len(whole)+seenRecord {
		t.Errorf("%d octets, %v, want %d", len(b), err, len(whole)+seenRecord)
	}
	change([]byte(seenHeader[:len(seenHeader)-1])) // its line was cut short, and nothing came
	w.restart()
	w.take(postfix(t, message(3, ann), ann))
	if b, err := os.ReadFile(path); err != nil || len(b) != len(seenHeader)+seenRecord {
		t.Errorf("after a line that was cut short: %d octets, %v, want %d", len(b), err, len(seenHeader)+seenRecord)
	}
}

// A report over which something breaks is the only one that is lost, and does not stop the
// agent each time that it starts.
func TestReportThatBreaksSomethingIsLeftOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	w.a.LookupKey = func(context.Context, string) ([]string, error) { panic("a defect") }
	for i, m := range []sent{message(1, ann, bob), message(2, bob)} {
		b := w.signedBy("remote.example", postfix(t, m, bob))
		if _, err := w.options.Box.Put(b, uint64(i), time.Unix(int64(i+1), 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.a.empty(t.Context()); err != nil {
		t.Error(err)
	}
	if list, err := w.options.Box.Waiting(); err != nil || len(list) != 0 {
		t.Errorf("%d are left, %v", len(list), err)
	}
	if l := w.listed(); !slices.Equal(l, []string{stream + " " + bob}) {
		t.Errorf("listed: %v", l)
	}
	if !strings.Contains(w.log.String(), "a defect") || w.a.Counts()[Count{Unknown, Unverified}] != 1 {
		t.Errorf("counted %v, logged\n%s", w.a.Counts(), w.log)
	}
}

func TestMemoryOfReportsIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	s := w.a.seen
	s.most = 100
	now := time.Now()
	add := func(day time.Time, i int) bool {
		again, err := s.add(day, spool.ID(i), "q", bob, "x", now)
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	for i := range 100 {
		if add(now.Add(-time.Duration(i/25)*24*time.Hour), i) {
			t.Fatalf("report %d is known", i)
		}
	}
	if add(now, 1000) || len(s.days) > 100 {
		t.Errorf("%d are remembered", len(s.days))
	}
	if !add(now.Add(-3*24*time.Hour), 2000) {
		t.Error("one on a message that is forgotten is taken: so might be its replay")
	}
	w.restart()
	if again, err := w.a.seen.add(now, 1000, "q", bob, "x", now); err != nil || !again {
		t.Errorf("forgotten by a restart: %v", err)
	}
}

func TestSilenceIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, drop)
	w.a.record = Record{Sent: silent - 1, Since: time.Now()}
	r := w.a.Record()
	if s := r.Silence(); s != "" {
		t.Errorf("too early: %s", s)
	}
	w.a.record.Sent++
	w.restart()
	r, err := ReadRecord(w.options.State)
	if err != nil {
		t.Fatal(err)
	}
	if s := r.Silence(); !strings.Contains(s, "10000 recipients were sent to since") || !strings.Contains(s, "millrace feedback -") {
		t.Errorf("said: %s", s)
	}
	w.take(postfix(t, message(1, bob), bob))
	if r = w.a.Record(); r.Silence() != "" {
		t.Error("told though a report came")
	}
}
