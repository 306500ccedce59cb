//go:build !long && !race

package e2e

// volume is how many octets TestEveryByteArrives injects.
const volume = 120 << 20
