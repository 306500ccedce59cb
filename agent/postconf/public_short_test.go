//go:build !long && !race

package postconf

// inEachRun says which of the public configurations that end their lines as usual
// TestSetupOnPublicConfigurations has: one of five, and one that has a parameter
// twice. Together they run each statement that all of them run; five is odd, so some lie
// behind links.
func inEachRun(i int, name string) bool { return i%5 == 3 || name == "na-hw3" }
