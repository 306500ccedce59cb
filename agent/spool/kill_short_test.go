//go:build !long

package spool

// How much "make test" runs.
const (
	defaultHistories = 2000
	killCount        = 40
)
