package agent

import (
	"errors"
	"strings"
	"testing"
)

// What a domain publishes may be quoted in the reason why its mail waits.
func TestListedErrorsArePrintableAndBounded(t *testing.T) {
	t.Parallel()
	got := inWords(errors.New("policy of a.example: \x1b[2J\n\u202e" + strings.Repeat("mx.example, ", 5000)))
	if len(got) > maxWords || !strings.HasPrefix(got, "policy of a.example: ?[2J??mx.example, ") {
		t.Errorf("%d octets: %.100q", len(got), got)
	}
}
