package leaks

import (
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

// Not parallel: the goroutines of other tests would be found.
func TestOnlyWhatStaysIsALeak(t *testing.T) {
	late := make(chan struct{})
	timer := time.AfterFunc(2*time.Second, func() { close(late) }) // much longer than goleak waits
	defer timer.Stop()
	go func() { <-late }()
	if err := Find(); err != nil {
		t.Error(err)
	}
	stays := make(chan struct{})
	go func() { <-stays }()
	if err := find(time.Millisecond); err == nil || !strings.Contains(err.Error(), "TestOnlyWhatStaysIsALeak") {
		t.Errorf("found %v", err)
	}
	close(stays)
}
