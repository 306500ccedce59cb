package event

import (
	"testing"
	"time"
)

func TestHostsQueueIDIsTaken(t *testing.T) {
	t.Parallel()
	for reply, want := range map[string]string{
		"250 2.0.0 Ok: queued as 4fKz1T0Qx9z": "4fKz1T0Qx9z", "250 2.0.0 Ok: queued as 4fKz as well": "4fKz", "250 ok": "",
	} {
		if got := forwardedAs(reply); got != want {
			t.Errorf("forwardedAs(%s) = %s", reply, got)
		}
	}
}

func TestDelaysAreWrittenAsPostfixDoes(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0", 4 * time.Millisecond: "0", 18 * time.Millisecond: "0.02", 100 * time.Millisecond: "0.1", 994 * time.Millisecond: "0.99",
		996 * time.Millisecond: "1", 1440 * time.Millisecond: "1.4", 9940 * time.Millisecond: "9.9", 9960 * time.Millisecond: "10",
		100*time.Second + 600*time.Millisecond: "101", 200 * time.Hour: "720000",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %s, want %s", d, got, want)
		}
	}
}
