//go:build long

package inlet_test

const (
	// corpusSize is how many octets TestCorpusByteForByte sends.
	corpusSize = 1 << 30
	// crowd is how many clients TestCrowdIsBounded has at a time.
	crowd = 10_000
)
