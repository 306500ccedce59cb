package control

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

func (f fixed) HandBack(_ context.Context, x Filter) (Selected, error) {
	if x.Queue == "" {
		return Selected{}, fmt.Errorf("no queue in %+v", x)
	}
	return Selected{Recipients: f.n, Active: len(x.Queue)}, nil
}

func (f fixed) HandbackStatus() HandbackStatus {
	return HandbackStatus{Relay: "127.0.0.1:10626", Waiting: f.n, Later: 2, Done: 3, HostQueue: -1, Held: "why"}
}

func TestHandBack(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 7}))
	if done, err := c.HandBack(t.Context(), Filter{Queue: "google"}); err != nil || done.Recipients != 7 || done.Active != 6 {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := c.HandBack(t.Context(), Filter{User: "joe"}); err == nil || !strings.Contains(err.Error(), "no queue in") {
		t.Errorf("an error of the agent came as %v", err)
	}
	r, err := c.HandbackStatus(t.Context())
	if err != nil || r != (fixed{n: 7}).HandbackStatus() || r.Left() != 9 {
		t.Errorf("%+v, %v", r, err)
	}
}
