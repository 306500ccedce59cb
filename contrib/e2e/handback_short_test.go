//go:build !long

package e2e

// How many messages TestHandBackWhileBothSidesAreKilled hands back, and how many
// times it kills: agent, Postfix, both, and the agent again.
const (
	handbacks     = 500
	handbackKills = 4
)
