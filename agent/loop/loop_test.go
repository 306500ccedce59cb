package loop

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestEveryTickIsOneCall has one call that takes longer than three ticks: the first of
// these waits for it, the others are left out.
func TestEveryTickIsOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
		defer cancel()
		var ticks []time.Duration
		Every(ctx, time.Second, func(tick time.Time) {
			ticks = append(ticks, tick.Sub(began))
			if len(ticks) == 2 {
				<-time.After(3500 * time.Millisecond)
			}
		})
		if len(ticks) != 5 || ticks[0] != time.Second || ticks[1] != 2*time.Second || ticks[2] != 3*time.Second || ticks[4] != 7*time.Second {
			t.Errorf("ticks %v", ticks)
		}
		if took := time.Since(began); took != 7500*time.Millisecond {
			t.Errorf("ended after %v", took)
		}
	})
}
