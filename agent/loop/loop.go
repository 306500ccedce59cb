// Package loop repeats a function until a context ends.
package loop

import (
	"context"
	"time"
)

// Every calls f with the time of each tick, the first of which is d from now, until ctx
// ends. A tick that comes while f runs waits for it, and further ones are left out.
func Every(ctx context.Context, d time.Duration, f func(tick time.Time)) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case tick := <-t.C:
			f(tick)
		}
	}
}
