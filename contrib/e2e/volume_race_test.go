//go:build !long && race

package e2e

// volume is how many octets TestEveryByteArrives injects. With the race detector each octet
// costs several times as much, and more octets of the same kinds take no other way.
const volume = 40 << 20
