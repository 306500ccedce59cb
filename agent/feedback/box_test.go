package feedback

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBoxKeepsTheNewest(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	b := NewBox(spool)
	if list, err := b.Waiting(); err != nil || len(list) != 0 {
		t.Errorf("an empty one has %v, %v", list, err)
	}
	at := time.Unix(1790000000, 0)
	large := bytes.Repeat([]byte("x"), MaxSize)
	const most = 4
	b.octets = most * MaxSize
	for i := range most + 3 {
		gone, err := b.Put(append(large[:MaxSize-1:MaxSize-1], byte('0'+i%10)), uint64(i), at.Add(time.Duration(i)*time.Second))
		if err != nil || (gone > 0) != (i >= most) {
			t.Fatalf("message %d: %d are gone, %v", i, gone, err)
		}
	}
	list, err := b.Waiting()
	if err != nil || len(list) != most {
		t.Fatalf("%d wait, %v", len(list), err)
	}
	if got, err := b.Read(list[0]); err != nil || got[MaxSize-1] != '3' {
		t.Errorf("the oldest is %q, %v", got[MaxSize-1:], err)
	}
	for _, name := range list {
		if err := b.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if err := b.Remove(list[0]); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	// What is in the making, and what is none of ours, is no message.
	for _, name := range []string{"x.tmp", "notes.eml", "other"} {
		if err := os.WriteFile(filepath.Join(spool, "reports", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := b.Waiting(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if err := b.Clean(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(spool, "reports", "x.tmp")); !os.IsNotExist(err) {
		t.Error("what a crash left is there still")
	}
}

// Who has one copy and sends reports on it without end takes no place from reports on others.
func TestBoxIsSharedByCopies(t *testing.T) {
	t.Parallel()
	b := NewBox(t.TempDir())
	b.most = 6
	put := func(text string, about uint64, second int64) {
		t.Helper()
		if _, err := b.Put([]byte(text), about, time.Unix(1790000000+second, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		put("genuine", uint64(i+1), int64(i))
	}
	for i := range 10 {
		put("flood", 99, int64(10+i))
	}
	list, err := b.Waiting()
	if err != nil || len(list) != 6 {
		t.Fatalf("%d wait, %v", len(list), err)
	}
	for i, name := range list {
		got, err := b.Read(name)
		if want := map[bool]string{true: "genuine", false: "flood"}[i < 3]; err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	// Names of an earlier version are read, too.
	if err := os.WriteFile(filepath.Join(b.dir, "0000000000000001-3.eml"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err = b.Waiting(); err != nil || len(list) != 7 || list[0] != "0000000000000001-3.eml" {
		t.Errorf("%v, %v", list, err)
	}
	put("one more", 7, 1000)
	if list, err = b.Waiting(); err != nil || len(list) != 6 {
		t.Errorf("%v, %v", list, err)
	}
}
