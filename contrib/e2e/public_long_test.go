//go:build long

package e2e

// everyPair says which of the public configurations are started: one of so many.
const everyPair = 1

// oldProtocols are the values of milter_protocol that are tried.
func oldProtocols() []string { return []string{"2", "3", "4"} }
