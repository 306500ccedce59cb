//go:build !long

package e2e

// everyPair says which of the public configurations are started: one of so many. Each
// takes some ten seconds, as Postfix's programs wait until a file is two seconds old.
const everyPair = 19

// oldProtocols are the values of milter_protocol that are tried.
func oldProtocols() []string { return []string{"2"} }
