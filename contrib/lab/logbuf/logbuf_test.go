package logbuf

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func TestLinesAreWholeAndContainAllWords(t *testing.T) {
	t.Parallel()
	var b Buffer
	fmt.Fprint(&b, "qid=A status=sent\nqid=A status=deferred\nqid=B status=sent\nqid=A status=se")
	if got := b.Lines("qid=A", "status=sent"); !slices.Equal(got, []string{"qid=A status=sent"}) {
		t.Errorf("%q", got)
	}
	fmt.Fprint(&b, "nt\n")
	if got := b.Lines("qid=A", "status=sent"); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if got := b.Lines(); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

// TestManyWrite is for the race detector.
func TestManyWrite(t *testing.T) {
	t.Parallel()
	var b Buffer
	log := b.Logger()
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 100 {
				log.Info("said", "by", i)
				b.Lines("by=0")
			}
		})
	}
	writers.Wait()
	if got := len(b.Lines("msg=said")); got != 800 {
		t.Errorf("%d lines", got)
	}
}
