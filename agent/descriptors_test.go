package agent

import "testing"

func TestSessionsFitTheDescriptors(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		limit      uint64
		configured int
		want       int
	}{
		{1 << 20, 2000, 2000}, {4512, 2000, 2000}, {4511, 2000, 1999}, {1024, 2000, 256}, {256, 2000, 1}, {1<<63 - 1, 50, 50},
	} {
		if got := sessionsFor(x.limit, x.configured); got != x.want {
			t.Errorf("%d descriptors, %d configured: %d, want %d", x.limit, x.configured, got, x.want)
		}
	}
}
