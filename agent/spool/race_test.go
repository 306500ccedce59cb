//go:build race

package spool

// historyShare is one in how many of the histories are gone through, and of the octets at which a
// record is torn and a footer damaged. Each is one goroutine for the most part, and takes eight
// times as long with the race detector.
const historyShare = 8

// killShare is one in how many of the kills are done. Each has processes start that the race
// detector is built into.
const killShare = 4
