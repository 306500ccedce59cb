//go:build !race

package spool

// historyShare is one in how many of the histories are gone through, and of the octets at which a
// record is torn and a footer damaged.
const historyShare = 1

// killShare is one in how many of the kills are done.
const killShare = 1
