package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

func (backend) Suppressions(context.Context, func(*control.Suppression) error) error { return nil }
func (backend) Suppress(context.Context, func(*control.Suppression) error) (int, error) {
	return 0, nil
}
func (backend) Unsuppress(context.Context, control.SuppressionRemoval) (int, error) { return 0, nil }
func (backend) SuppressionStats() control.SuppressionStats                          { return control.SuppressionStats{} }
func (backend) Feedback(context.Context, []byte) ([]control.Finding, error)         { return nil, nil }

// suppressing is a backend with a list.
type suppressing struct {
	backend
	mode string
	mu   sync.Mutex
	list []control.Suppression
}

func (b *suppressing) Suppressions(_ context.Context, yield func(*control.Suppression) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.list {
		if err := yield(&b.list[i]); err != nil {
			return err
		}
	}
	return nil
}

func (b *suppressing) Suppress(_ context.Context, next func(*control.Suppression) error) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var s control.Suppression
	for {
		if err := next(&s); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		if s.Class == "" {
			s.Class = "none"
		}
		if s.Last.IsZero() {
			s.Last = time.Unix(1_700_000_000, 0).UTC()
		}
		s.Suppressed = s.Class == "none" || s.Bounces >= 3
		b.list = append(b.list, s)
		n++
	}
}

func (b *suppressing) Unsuppress(_ context.Context, x control.SuppressionRemoval) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.list)
	b.list = slices.DeleteFunc(b.list, func(s control.Suppression) bool {
		return slices.Contains(x.Addresses, s.Address) && (x.Stream == nil || *x.Stream == s.Stream)
	})
	return before - len(b.list), nil
}

func (b *suppressing) SuppressionStats() control.SuppressionStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return control.SuppressionStats{Mode: b.mode, Suppressed: len(b.list), Admin: 2, Counted: 1, Octets: 4096}
}

func TestSuppressVerbs(t *testing.T) {
	t.Parallel()
	b := &suppressing{mode: "drop"}
	config := serve(t, b)
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const export = `address,stream,last,bounces,class,late
a@b.test,,2023-11-14T22:13:20Z,0,none,
c@b.test,news,2023-11-14T22:13:20Z,0,none,
old@b.test,"Spring, sale",2026-11-01T10:00:00Z,4,userunknown,late
once@b.test,news,2026-11-02T10:00:00Z,1,hasmoved,
`
	for _, x := range []struct {
		args   []string
		code   int
		stdout string // all of it
		stderr string // a part
	}{
		{args: []string{"add", "a@b.test"}, stdout: "1 entry added\n"},
		{args: []string{"add", "nobody"}, code: 1, stderr: `"nobody" is not an address`},
		{args: []string{"import", file("plain", "# complaints\nc@b.test\n"), "--stream", "news"}, stdout: "1 entry added\n"},
		{args: []string{"import", file("bad", "c@b.test\n\n# and\nhere is nothing\n")}, code: 1, stderr: "bad:4: "},
		{args: []string{"import", file("csv", "class,Address,stream,bounces,last,late\nuserunknown,old@b.test,\"Spring, sale\",4,2026-11-01T10:00:00Z,late\nhasmoved,once@b.test,news,1,2026-11-02T10:00:00Z\n")},
			stdout: "2 entries added\n"},
		{args: []string{"import", file("when", "address,late\nx@b.test,2026-11-01\n")}, code: 1, stderr: "when:2: "},
		{args: []string{"import", file("names", "mail,stream\n")}, code: 1, stderr: "names:1: "},
		{args: []string{"list"}, stdout: `LAST                BOUNCES  CLASS       STREAM                         ADDRESS
2023-11-14 22:13:20       0  (by admin)  (all)                          a@b.test
2023-11-14 22:13:20       0  (by admin)  news                           c@b.test
2026-11-01 10:00:00       4  userunknown Spring, sale                   old@b.test
`},
		{args: []string{"list", "--all", "--json", "--stream", "news"}, stdout: `{"address":"c@b.test","stream":"news","last":"2023-11-14T22:13:20Z","bounces":0,"class":"none","suppressed":true}
{"address":"once@b.test","stream":"news","last":"2026-11-02T10:00:00Z","bounces":1,"class":"hasmoved","suppressed":false}
`},
		{args: []string{"export"}, stdout: export},
		{args: []string{"stats"}, stdout: "mode        drop\nsuppressed  4, 2 of them by an admin\ncounted     1 more have bounced\non disk     4096 octets\n"},
		{args: []string{"remove", "a@b.test", "--stream", "news"}, code: 1, stdout: "0 entries removed\n", stderr: "none of these"},
		{args: []string{"remove", "a@b.test", "c@b.test", "old@b.test", "once@b.test"}, stdout: "4 entries removed\n"},
		{args: []string{"import", file("export", export)}, stdout: "4 entries added\n"},
		{args: []string{"export"}, stdout: export},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config, "suppress"}, x.args...)...)
		if r.code != x.code || x.stdout != r.stdout || !strings.Contains(r.stderr, x.stderr) || x.stderr == "" && r.stderr != "" {
			t.Errorf("millrace suppress %q: exit code %d\n%s\n%s", x.args, r.code, r.stdout, r.stderr)
		}
		// What was read before an error is added, as the agent says too.
		b.mu.Lock()
		b.list = slices.DeleteFunc(b.list, func(s control.Suppression) bool { return x.code != 0 && s.Stream == "" && s.Address == "c@b.test" })
		b.mu.Unlock()
	}
}

func TestAnAdminIsToldThatNothingIsDropped(t *testing.T) {
	t.Parallel()
	r := millrace(t, "TZ=UTC", "--config", serve(t, &suppressing{mode: "advise"}), "suppress", "add", "a@b.test")
	if r.code != 0 || !strings.Contains(r.stderr, `mode = "drop"`) {
		t.Errorf("exit code %d, %q", r.code, r.stderr)
	}
}
