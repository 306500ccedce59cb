package control

import (
	"testing"
	"time"
)

func TestSourcesAndLimitsInWords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 30, 8, 0, 0, 0, time.Local)
	for _, tt := range []struct {
		x    interface{ InWords() string }
		want string
	}{
		{&Source{Address: "192.0.2.1", Hello: "mail.example.com"}, "of source_addresses, greets as mail.example.com"},
		{&Source{Address: "192.0.2.1", Pool: "news", Hello: "out1.example.com", Weight: 3, Absent: true}, "of pool news, weight 3, greets as out1.example.com; cannot be bound"},
		{
			&Source{Pool: "news", Hello: "o", Weight: 1, Blocked: []Effect{{Site: "google:192.0.2.1", Until: at}, {Site: "yahoo:192.0.2.1", Until: at, Queue: "yahoo", Stream: "x"}}},
			"of pool news, weight 1, greets as o; blocked at google:192.0.2.1 until 2026-11-30 08:00:00: its mail there waits; " +
				"blocked at yahoo:192.0.2.1 until 2026-11-30 08:00:00: others of its pool take its mail there, but for the stream that earned it",
		},
		{&StreamLimits{Name: "a", Rate: 20}, "at most 20 messages/s"},
		{&StreamLimits{Name: "a", Rate: 10. / 60}, "at most 10 messages/m"},
		{&StreamLimits{Name: "a", Rate: 1. / 3600}, "at most 1 messages/h"},
		{
			&StreamLimits{Name: "a", Window: "Mon-Fri 08:00-20:00", Closed: true, Changes: at, Quotas: []Quota{{Limit: 5000, Used: 17}, {Queue: "google", Day: true, Limit: 100, Used: 100, Next: at}}},
			"17 of 5000/h; google 100 of 100/d, room at Mon 08:00; Mon-Fri 08:00-20:00, closed until Mon 08:00",
		},
	} {
		if got := tt.x.InWords(); got != tt.want {
			t.Errorf("%q\nwant %q", got, tt.want)
		}
	}
}
