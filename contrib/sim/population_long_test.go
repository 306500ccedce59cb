//go:build long && !race

package sim

import "testing"

// TestManyOfEachPopulation meets receivers that the controller was not tuned with.
func TestManyOfEachPopulation(t *testing.T) { meetPopulations(t, 100_001, 1000) }
