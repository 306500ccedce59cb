package control

import (
	"bytes"
	"strconv"
	"testing"
)

// A report goes to the agent as it is, and of a long one its beginning.
func TestFeedbackIsTakenAsItComes(t *testing.T) {
	t.Parallel()
	c := NewClient(open(t, fixed{}))
	defer c.Close()
	for size, want := range map[int]int{1: 1, 4096: 4096, maxFeedback: maxFeedback, maxFeedback + 1: maxFeedback} {
		got, err := c.Feedback(t.Context(), bytes.Repeat([]byte("x"), size))
		if err != nil || len(got) != 1 || got[0].Why != strconv.Itoa(want) {
			t.Errorf("%d octets: %+v, %v", size, got, err)
		}
	}
	if got, err := c.Feedback(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("nothing: %+v, %v", got, err)
	}
}
