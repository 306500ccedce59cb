//go:build long

package spool

// How much "make long" runs.
const (
	defaultHistories = 100_000
	defaultSeed      = 0 // from the clock
	killCount        = 500
)
