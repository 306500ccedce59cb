//go:build long

package e2e

// How many messages TestHandBackWhileBothSidesAreKilled hands back, and how many
// times it kills.
const (
	handbacks     = 10_000
	handbackKills = 60
)
