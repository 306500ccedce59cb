package control

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// Watch shows two lines, and then what the question says: "refused" cannot be watched, "wait"
// goes on until the client leaves, and all else is over.
func (f fixed) Watch(ctx context.Context, q WatchQuestion, yield func([]WatchLine) error) error {
	if q.Site == "refused" {
		return errors.New("8 watch already")
	}
	if err := yield(nil); err != nil {
		return err
	}
	at := time.Unix(1700000000, 0).UTC()
	err := yield([]WatchLine{{Time: at, Session: 7, From: WatchClient, Text: "MAIL FROM:<a&b@c.test>"}, {Time: at, Session: 7, From: WatchServer, Text: "250 ok", Lost: 2}})
	if q.Site == "wait" && err == nil {
		<-ctx.Done()
		err = ctx.Err()
	}
	return err
}

func TestWatchOverTheSocket(t *testing.T) {
	t.Parallel()
	c := NewClient(open(t, fixed{}))
	var got []string
	err := c.Watch(t.Context(), WatchQuestion{Site: "google"}, func(l *WatchLine) error {
		if l != nil {
			got = append(got, l.From+l.Text)
		}
		return nil
	})
	if want := "CMAIL FROM:<a&b@c.test>|S250 ok"; err != nil || strings.Join(got, "|") != want {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.Watch(t.Context(), WatchQuestion{Site: "refused"}, func(*WatchLine) error { return nil }); err == nil || !strings.Contains(err.Error(), "8 watch already") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err = c.Watch(ctx, WatchQuestion{Site: "wait"}, func(l *WatchLine) error {
		if n++; n == 3 { // lines come while the watch goes on
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Errorf("%d lines, %v", n, err)
	}
}
