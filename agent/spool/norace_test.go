//go:build !race

package spool

// historyShare is one in how many of the histories are gone through.
const historyShare = 1
