package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

// TestShapeIsThatOfQshape has Postfix's own program count the same recipients, from
// queue files.
func TestShapeIsThatOfQshape(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	rows := []control.Shape{{Name: "old.example"}, {Name: "a.domain.whose.name.is.too.long.for.what.is.left.example"}, {Name: "new.example"}}
	files := 0
	for i, perRow := range []int{1200, 300, 7} {
		for n := range perRow {
			age := time.Duration((n*n)%3000)*time.Minute + time.Second // clear of the columns' bounds
			rows[i].Add(age)
			files++
			queueFile(t, filepath.Join(dir, fmt.Sprintf("A%09d", files)), now.Add(-age), "someone@"+rows[i].Name)
		}
	}
	want, err := exec.CommandContext(t.Context(), "qshape", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("qshape: %v\n%s", err, want)
	}
	var got strings.Builder
	qshape(&got, rows, rows)
	if got.String() != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

// queueFile writes what qshape reads of a queue file of Postfix: records of a type, a
// length and that many octets.
func queueFile(t *testing.T, path string, arrived time.Time, recipient string) {
	t.Helper()
	var b strings.Builder
	for _, rec := range []struct {
		kind byte
		data string
	}{
		{'C', fmt.Sprintf("%15d %15d %15d", 0, 0, 1)}, {'T', fmt.Sprintf("%d 0", arrived.Unix())},
		{'S', "news@example.com"}, {'R', recipient}, {'M', ""}, {'X', ""}, {'E', ""},
	} {
		b.WriteByte(rec.kind)
		b.WriteByte(byte(len(rec.data)))
		b.WriteString(rec.data)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o700); err != nil {
		t.Fatal(err)
	}
}
