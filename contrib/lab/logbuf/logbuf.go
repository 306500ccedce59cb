// Package logbuf keeps the log of what is tested, so that a test can read it while
// it is still written.
//
// The zero [Buffer] is ready. A test gives its [Buffer.Logger] to a part, or the
// Buffer itself as the output of a program, and reads with [Buffer.Lines], or with
// [Buffer.String] in one piece. A log that lies in a file is read with [Lines].
package logbuf

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Buffer is an io.Writer that keeps everything. Its methods may be called from any
// goroutine.
type Buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Lines returns the lines written so far that contain all the words, as [Lines] does.
func (b *Buffer) Lines(words ...string) []string { return Lines(b.String(), words...) }

// Logger returns a logger that writes into the buffer, as text and from level INFO up.
func (b *Buffer) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// Lines returns the lines of a log that contain all the words, without their line
// ends. A last line that has no end yet is left out: its writer is in the middle of
// it.
func Lines(log string, words ...string) []string {
	var found []string
	for line := range strings.Lines(log) {
		line, whole := strings.CutSuffix(line, "\n")
		if whole && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}
