// Package abreast lets the tests of a package wait beside each other:
//
//	func TestMain(m *testing.M) {
//		abreast.Wait(3)
//		leaks.Main(m)
//	}
//
// It is for packages whose parallel tests wait most of the time, for a Postfix, for an
// agent's timers, for a receiver far away. As many of them at once as there are cores, which
// is what package testing takes, leave the cores idle.
package abreast

import (
	"flag"
	"runtime"
	"strconv"
)

// Wait lets so many parallel tests run for each core, unless -parallel says otherwise.
func Wait(each int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return
	}
	if err := flag.Set("test.parallel", strconv.Itoa(each*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // package testing has no such flag any more
	}
}
