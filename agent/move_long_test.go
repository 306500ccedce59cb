//go:build long

package agent

func init() { moveMessages, moveKills = 100_000, 40 }
