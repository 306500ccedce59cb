package main

import (
	"bufio"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/spool"
)

// liveSpool is a spool that both daemons have open, with three messages: one
// that is done but for a deferred recipient, one fresh, one without a verdict.
func liveSpool(t *testing.T) (dir string, ids []spool.ID) {
	t.Helper()
	dir = t.TempDir()
	w, err := spool.OpenWriter(dir, spool.WriterOptions{SegmentSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	for i, sender := range []string{"news@example.com", "", "a\x1b[2Jb@example.com"} {
		e := &spool.Envelope{
			Sender: sender, Args: []string{"RET=HDRS"}, Stream: "weekly", QueueID: "4XyZ1",
			Arrived: time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local), ClientName: "app.example.com", ClientAddr: "192.0.2.1",
			Recipients: []spool.Recipient{{Address: "one@example.net", Args: []string{"NOTIFY=NEVER"}}, {Address: "two@example.net"}},
		}
		r, err := w.Append(t.Context(), e, strings.NewReader("Subject: hi\r\n\r\nfirst\r\n\r\nlast without an end"))
		if err == nil && i < 2 {
			err = r.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID())
	}
	store, err := spool.OpenStore(dir, spool.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.Load(func(spool.ID, *spool.Envelope, []spool.State) error { return nil }); err != nil {
		t.Fatal(err)
	}
	err = store.Record(
		spool.Event{ID: ids[0], Recipient: 0, State: spool.State{Status: spool.Delivered, Tries: 1}},
		spool.Event{ID: ids[0], Recipient: 1, State: spool.State{Tries: 2, Due: time.Unix(1800000000, 0), Reply: "451 4.7.1 Greylisted"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir, ids
}

func reader(t *testing.T, dir string) *spool.Reader {
	t.Helper()
	r, err := spool.OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestSpoolLsListsOneLineAMessage(t *testing.T) {
	t.Parallel()
	dir, ids := liveSpool(t)
	var out strings.Builder
	if err := new(spoolLs).list(&out, reader(t, dir)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		ids[0].String() + " 43 2026-03-04 05:06:07 2 1 delivered,1 deferred news@example.com weekly 4XyZ1",
		ids[1].String() + " 43 2026-03-04 05:06:07 2 2 queued <> weekly 4XyZ1",
		ids[2].String() + " 43 2026-03-04 05:06:07 2 pending a?[2Jb@example.com weekly 4XyZ1",
	}
	got := strings.TrimSpace(regexp.MustCompile(" +").ReplaceAllString(out.String(), " "))
	if got != strings.Join(want, "\n") {
		t.Errorf("ls prints\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestSpoolCatPrintsAsPostcatDoes(t *testing.T) {
	t.Parallel()
	dir, ids := liveSpool(t)
	var out strings.Builder
	b := bufio.NewWriter(&out)
	if err := (&spoolCat{ID: strings.ToLower(ids[0].String())}).cat(b, b, reader(t, dir)); err != nil {
		t.Fatal(err)
	}
	b.Flush()
	id := ids[0].String()
	want := "*** ENVELOPE RECORDS " + id + ` ***
message_size: 43
message_arrival_time: Wed Mar  4 05:06:07 2026
named_attribute: log_client_name=app.example.com
named_attribute: log_client_address=192.0.2.1
named_attribute: host_queue_id=4XyZ1
named_attribute: stream=weekly
named_attribute: verdict=released
named_attribute: mail_arguments=RET=HDRS
sender: news@example.com
named_attribute: rcpt_arguments=NOTIFY=NEVER
named_attribute: state=delivered, 1 tries
done_recipient: one@example.net
named_attribute: state=deferred, 2 tries, next ` + time.Unix(1800000000, 0).Format(time.RFC3339) + `: 451 4.7.1 Greylisted
recipient: two@example.net
*** MESSAGE CONTENTS ` + id + ` ***
Subject: hi

first

last without an end
*** HEADER EXTRACTED ` + id + ` ***
*** MESSAGE FILE END ` + id + ` ***
`
	if out.String() != want {
		t.Errorf("cat prints\n%s\nwant\n%s", out.String(), want)
	}
	for _, bad := range []string{"nonsense", "M77-40"} {
		if err := (&spoolCat{ID: bad}).cat(b, b, reader(t, dir)); err == nil {
			t.Errorf("cat %s: no error", bad)
		}
	}
}

func TestSpoolVerifyFailsWithAFault(t *testing.T) {
	t.Parallel()
	dir, ids := liveSpool(t)
	var out strings.Builder
	if err := new(spoolVerify).verify(&out, dir); err != nil || !strings.Contains(out.String(), "3 messages, 129 octets of content read, 0 faults") {
		t.Errorf("%v, %s", err, &out)
	}
	name := filepath.Join(dir, "segments", "00000001")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("?"), int64(ids[2].Offset())-20); err != nil { // content of the second
		t.Fatal(err)
	}
	out.Reset()
	err = new(spoolVerify).verify(&out, dir)
	if err == nil || !strings.HasPrefix(out.String(), name+":") || !strings.Contains(out.String(), ids[1].String()) {
		t.Errorf("%v, %s", err, &out)
	}
}

func TestSpoolStatsCount(t *testing.T) {
	t.Parallel()
	dir, _ := liveSpool(t)
	var out strings.Builder
	if err := new(spoolStats).print(&out, reader(t, dir)); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(" +").ReplaceAllString(out.String(), " ")
	for _, want := range []string{"messages 3\n", " without a verdict 1\n", "recipients queued 5\n", " of these deferred 1\n", "recipients delivered 1\n", "segments 1\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("stats lack %q:\n%s", want, got)
		}
	}
}
