package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/suppress"
)

// suppressFile, in the state directory, holds the suppression list.
const suppressFile = "suppressed"

// Suppressions implements control.Backend.
func (a *Agent) Suppressions(ctx context.Context, yield func(*control.Suppression) error) error {
	now, p := time.Now(), a.bounced.Policy()
	return a.bounced.Each(ctx, now, func(e *suppress.Entry) error {
		return yield(&control.Suppression{
			Address: e.Address, Stream: e.Stream, Last: e.Last, Bounces: e.Bounces,
			Class: e.Class.String(), Suppressed: e.Suppressed(&p, now),
		})
	})
}

// Suppress implements control.Backend.
func (a *Agent) Suppress(next func(*control.Suppression) error) (n int, err error) {
	now := time.Now()
	var x control.Suppression
	for {
		if err = next(&x); err != nil {
			break
		}
		e := suppress.Entry{Address: x.Address, Stream: x.Stream, Last: x.Last, Bounces: x.Bounces}
		if e.Last.IsZero() {
			e.Last = now
		}
		if x.Class != "" {
			var ok bool
			if e.Class, ok = outcome.ParseClass(x.Class); !ok || e.Class != outcome.ClassNone && !e.Class.Hard() {
				err = fmt.Errorf("%s: class %q suppresses no address", x.Address, x.Class)
				break
			}
		}
		a.bounced.Put(e)
		if n++; n%1000 == 0 {
			// A long list waits for the disk here, and not in memory.
			if err = a.bounced.Flush(); err != nil {
				break
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	a.log.Info("suppression list: added", "entries", n)
	return n, errors.Join(err, a.bounced.Sync())
}

// Unsuppress implements control.Backend.
func (a *Agent) Unsuppress(x control.Release) (int, error) {
	n, err := a.bounced.Remove(x.Stream, x.Addresses...)
	a.log.Info("suppression list: removed", "entries", n)
	return n, err
}

// SuppressionStats implements control.Backend.
func (a *Agent) SuppressionStats() control.SuppressionStats {
	st := a.bounced.Stats(time.Now())
	return control.SuppressionStats{
		Mode: string(a.settings.Now().Config.Suppression.Mode), Suppressed: st.Suppressed, Admin: st.Admin, Counted: st.Counted, Octets: st.Octets,
	}
}
