package postconf

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// On a busy host each look takes a second. That is no reason to take a set-up back.
func TestSlowLooksAreNoSilence(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct {
		look, answer, stop time.Duration // how long a look takes, after what there is an answer, and an end
		want               error
	}{
		"at once":             {answer: 0},
		"slow looks":          {look: time.Second, answer: 0},
		"slow looks, later":   {look: time.Second, answer: 15 * time.Second},
		"no answer":           {answer: time.Hour, want: errSilent},
		"slow, and no answer": {look: time.Second, answer: time.Hour, want: errSilent},
		"ends":                {stop: time.Second, want: errStopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := lives(t.Context(), func(context.Context) error {
					time.Sleep(x.look)
					if x.stop > 0 && time.Since(began) >= x.stop {
						return errors.New("the Postfix mail system is not running")
					}
					return nil
				}, func(context.Context) bool { return time.Since(began) >= x.answer })
				if !errors.Is(err, x.want) {
					t.Errorf("%v after %v, want %v", err, time.Since(began), x.want)
				}
				if err == nil && time.Since(began) < goodLooks*lookEvery {
					t.Errorf("good after %v", time.Since(began))
				}
			})
		})
	}
}
