//go:build long && !race

package postconf

// inEachRun: TestSetupOnPublicConfigurations has all of them.
func inEachRun(int, string) bool { return true }
