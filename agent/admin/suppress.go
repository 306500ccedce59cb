package admin

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

// Suppressions implements control.Backend.
func (b *Backend) Suppressions(ctx context.Context, yield func(*control.Suppression) error) error {
	now, p := time.Now(), b.bounced.Policy()
	return b.bounced.Each(ctx, now, func(e *suppress.Entry) error {
		return yield(&control.Suppression{
			Address: e.Address, Stream: e.Stream, Last: e.Last, Bounces: e.Bounces,
			Class: e.Class.String(), Suppressed: e.Suppressed(&p, now), Late: e.Late,
		})
	})
}

// Suppress implements control.Backend.
func (b *Backend) Suppress(ctx context.Context, next func(*control.Suppression) error) (n int, err error) {
	now := time.Now()
	common := b.orders.Common() != nil && !control.IsHere(ctx)
	who := control.PeerOf(ctx).String()
	var shared []suppress.Entry
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
			if e.Class, ok = outcome.ParseClass(x.Class); !ok || e.Class != outcome.ClassNone && e.Class != outcome.ClassComplaint && !e.Class.Hard() {
				err = fmt.Errorf("%s: class %q suppresses no address", x.Address, x.Class)
				break
			}
		}
		e.Late = x.Late || e.Class == outcome.ClassComplaint // lists of before do not say so
		b.bounced.Put(e)
		if common {
			if shared = append(shared, e); len(shared) == entriesAtOnce {
				b.shareEntries(who, shared)
				shared = shared[:0]
			}
		}
		if n++; n%1000 == 0 {
			// A long list waits for the disk here, and not in memory.
			if err = b.bounced.Flush(); err != nil {
				break
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if common {
		b.shareEntries(who, shared)
	}
	b.log.Info("suppression list: added", "entries", n)
	return n, errors.Join(err, b.bounced.Sync())
}

// Unsuppress implements control.Backend.
func (b *Backend) Unsuppress(ctx context.Context, x control.SuppressionRemoval) (int, error) {
	common := b.orders.Common() != nil && !control.IsHere(ctx)
	if common {
		b.shareLearned() // so that the removal is of what it has removed here
	}
	n, err := b.bounced.Remove(x.Stream, x.Addresses...)
	if common {
		err = errors.Join(err, b.removeInFleet(control.PeerOf(ctx).String(), commonRemoval{x.Addresses, x.Stream}))
	}
	b.log.Info("suppression list: removed", "entries", n)
	return n, err
}

// SuppressionStats implements control.Backend.
func (b *Backend) SuppressionStats() control.SuppressionStats {
	st := b.bounced.Stats(time.Now())
	return control.SuppressionStats{
		Mode: string(b.settings.Now().Config.Suppression.Mode), Suppressed: st.Suppressed, Admin: st.Admin, Counted: st.Counted, Octets: st.Octets,
	}
}
