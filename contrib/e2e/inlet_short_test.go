//go:build !long

package e2e

// inletKills is how many times TestInletKillNine kills, and the other one half as often.
const inletKills = 6
