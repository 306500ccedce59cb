package classify

import (
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkDecide judges the messages of testdata/corpus one after the other: what a
// message costs at the end of its header.
func BenchmarkDecide(b *testing.B) {
	files, err := filepath.Glob("testdata/corpus/*.eml")
	if err != nil || len(files) == 0 {
		b.Fatalf("%d messages: %v", len(files), err)
	}
	var messages []Message
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		s, err := readSample(string(text))
		if err != nil {
			b.Fatal(err)
		}
		s.message.Arrived = start
		messages = append(messages, s.message)
	}
	c := mustNew(b, shipped(b))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Decide(&messages[i%len(messages)])
	}
}
