package transient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestShortagesAreToldFromWhatIsBroken(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOMEM: true, syscall.ENOBUFS: true,
		syscall.EIO: false, syscall.ENOENT: false, syscall.EBADF: false, context.Canceled: false,
	} {
		if got := Shortage(fmt.Errorf("spool: %w", &os.PathError{Op: "open", Path: "/x", Err: err})); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}

func TestWaitsGrowAndTroubleIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r Retry
		for row := range 3 {
			began := time.Now()
			for i := range 20 {
				last := time.Now()
				news, err := r.Wait(t.Context(), syscall.EMFILE)
				if took := time.Since(last); err != nil || news != (i == 0) || took > time.Second || i > 8 && took != time.Second {
					t.Errorf("row %d, try %d: waited %v, news %t, %v", row, i, took, news, err)
				}
			}
			if lasted, was := r.Over(); !was || lasted != time.Since(began) {
				t.Errorf("row %d lasted %v, %t", row, lasted, was)
			}
			if _, was := r.Over(); was {
				t.Error("over twice")
			}
		}
	})
}

func TestOtherErrorsAreBorneForATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r Retry
		began := time.Now()
		for {
			if _, err := r.Wait(t.Context(), syscall.EIO); err != nil {
				if took := time.Since(began); !errors.Is(err, syscall.EIO) || took < Patience || took > Patience+2*time.Second {
					t.Errorf("after %v: %v", took, err)
				}
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Wait(ctx, syscall.EMFILE); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end of the context: %v", err)
		}
	})
}
