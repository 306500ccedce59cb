package watch

import (
	"fmt"
	"strings"
	"testing"
)

func TestReasonsAreBounded(t *testing.T) {
	t.Parallel()
	var list []string
	for i := range 30 {
		list = append(list, fmt.Sprintf("%d: %s", i, strings.Repeat("ü@x ", 1000)))
	}
	got := public(list)
	if len(got) != maxReasons+1 || got[maxReasons] != "and 10 more" {
		t.Errorf("%d lines, the last is %q", len(got), got[len(got)-1])
	}
	for _, line := range got {
		if len(line) > maxReason || strings.Contains(line, "ü") || strings.ContainsRune(line, '\uFFFD') {
			t.Errorf("%d octets: %s", len(line), line)
		}
	}
}
