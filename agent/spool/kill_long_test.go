//go:build long

package spool

// How much "make long" runs.
const (
	defaultHistories = 100_000
	killCount        = 500
)
