// Package tidy runs the tests of a package in a closed room of package lab, and
// fails when they leave goroutines behind:
//
//	func TestMain(m *testing.M) { tidy.Main(m, lab.WithPrograms) }
//
// It is apart from lab, which the soak and the benchmarks link too, so that these do not
// carry the check for goroutines.
package tidy

import (
	"fmt"
	"os"

	"github.com/millrace/millrace/contrib/lab"
	"github.com/millrace/millrace/contrib/lab/leaks"
)

// Main is lab.Main, with the check. It never returns.
func Main(m lab.Runner, options ...lab.Option) { lab.Main(runner{m}, options...) }

type runner struct{ tests lab.Runner }

func (r runner) Run() int {
	code := r.tests.Run()
	if leak := leaks.Find(); leak != nil && code == 0 {
		fmt.Fprintln(os.Stderr, leak)
		code = 1
	}
	return code
}
