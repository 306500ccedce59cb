//go:build corpus

package classify

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLabelledCorpus judges the headers of a directory that is no part of the repository:
//
//	MILLRACE_CORPUS=DIR[,DIR...] go test -tags corpus -run TestLabelledCorpus -v ./milter/classify
//
// DIR/labels.tsv has a heading and a line for each file: file, label, origin, expect
// ("leave", "divert" or "either") and envelope sender. Each is judged at once, and as the
// last of 2,000 to as many recipients within ten minutes. At most one in a hundred of
// "leave" may be diverted at once; the shares of "divert" are to be looked at.
func TestLabelledCorpus(t *testing.T) {
	dirs := os.Getenv("MILLRACE_CORPUS")
	if dirs == "" {
		t.Fatal("MILLRACE_CORPUS names no directory")
	}
	cfg := shipped(t)
	count := map[string][3]int{} // by expect: all, diverted at once, diverted in a blast
	for dir := range strings.SplitSeq(dirs, ",") {
		f, err := os.Open(filepath.Join(dir, "labels.tsv"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			v := strings.Split(lines.Text(), "\t")
			if len(v) < 5 || v[0] == "file" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, v[0]))
			if err != nil {
				t.Fatal(err)
			}
			head, _, _ := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n\n")
			s, err := readSample("from: " + v[4] + "\n\n" + head)
			if err != nil {
				t.Fatalf("%s: %v", v[0], err)
			}
			m := s.message
			send := func(c *Classifier, i int) Decision {
				m.Recipients = []Recipient{remote(fmt.Sprintf("reader%d@example.net", i))}
				m.Arrived = start.Add(time.Duration(i) * 10 * time.Minute / 2000)
				return c.Decide(&m)
			}
			once := send(mustNew(t, cfg), 0)
			blast, c := Decision{}, mustNew(t, cfg)
			for i := range 2000 {
				blast = send(c, i)
			}
			n := count[v[3]]
			n[0]++
			if once.Divert != nil {
				n[1]++
			}
			if blast.Divert != nil {
				n[2]++
			}
			count[v[3]] = n
			if v[3] == "leave" && (once.Divert != nil || blast.Divert != nil) || v[3] == "divert" && once.Divert == nil {
				t.Logf("%-6s once %-5t blast %-5t %s (%s): %s", v[3], once.Divert != nil, blast.Divert != nil, v[0], v[2], once.Reason)
			}
		}
	}
	for expect, n := range count {
		t.Logf("%-6s %3d: diverted at once %3d, in a blast %3d", expect, n[0], n[1], n[2])
	}
	if n := count["leave"]; n[1] > max(1, n[0]/100) {
		t.Errorf("%d of %d that should stay were diverted", n[1], n[0])
	}
}
