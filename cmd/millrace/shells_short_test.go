//go:build !long && !race

package main

// allBeginnings: TestShellsCompleteNothingHostile tries each name after each beginning of a word,
// not only after no beginning and one of the others, by turns.
const allBeginnings = false
