//go:build long && !race

package main

// allBeginnings: TestShellsCompleteNothingHostile tries each name after each beginning of a word.
const allBeginnings = true
