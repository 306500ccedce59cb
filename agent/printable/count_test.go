package printable

import "testing"

func TestNumbersAreGrouped(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -999: "-999", 1234567: "1,234,567"} {
		if got := Thousands(n); got != want {
			t.Errorf("Thousands(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "no sites", 1: "1 site", 1200: "1,200 sites"} {
		if got := Count(n, "site"); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
}
