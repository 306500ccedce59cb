// Package leaks fails the tests of a package that leave goroutines behind:
//
//	func TestMain(m *testing.M) { leaks.Main(m) }
//
// It is goleak with patience. Goroutines that are about to end, such as those of a server's
// last connections, get the time that a busy machine needs for that, where goleak alone
// waits for half a second.
package leaks

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines may take to end. Only those that never do cost it.
const patience = time.Minute

// Main runs the tests and exits.
func Main(m interface{ Run() int }) {
	code := m.Run()
	if code == 0 {
		if err := Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// Find returns an error that shows the goroutines that do not end.
func Find() error { return find(patience) }

func find(patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		if err := goleak.Find(); err == nil || time.Now().After(end) { // it waits itself
			return err
		}
	}
}
