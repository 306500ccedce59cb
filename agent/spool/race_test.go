//go:build race

package spool

// historyShare is one in how many of the histories are gone through. Each is one goroutine
// for the most part, and takes eight times as long with the race detector.
const historyShare = 8
