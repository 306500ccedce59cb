//go:build !long

package e2e

// everyPair says which of the public configurations are started: one of so many.
const everyPair = 8
