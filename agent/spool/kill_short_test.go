//go:build !long

package spool

// How much "make test" runs: the same histories every time, so that a change is
// what breaks them; "make long" explores.
const (
	defaultHistories = 2000
	defaultSeed      = 1
	killCount        = 40
)
