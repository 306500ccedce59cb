//go:build long

package lease

import "testing"

// The same on other seeds, some five minutes of one core.
func TestManyHistories(t *testing.T) {
	t.Parallel()
	histories(t, 1_000_000, 100_000)
}
