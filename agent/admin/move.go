package admin

import (
	"context"
	"errors"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/queue"
)

// move gives mail to another node, page by page. The first that does not work ends it.
func (b *Backend) move(ctx context.Context, o control.Action, tell func(control.Selected)) (done control.Selected, err error) {
	if o.To == "" {
		return done, errors.New("say to which node")
	}
	if o.Dry {
		return b.do(ctx, &action{[]pass{{all, nil}}, false}, o, tell)
	}
	run, err := b.mover.Begin(ctx, o.To, control.PeerOf(ctx).String())
	if err != nil {
		return done, err
	}
	defer run.End()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d := &action{[]pass{{all, func(b *Backend, s *orders.Selection, chosen []queue.Entry) int {
		n, err := run.Move(ctx, b.queue.Take(chosen), s.Envelope)
		if err != nil {
			stop(err)
		}
		return n
	}}}, true}
	done, err = b.do(ctx, d, o, tell)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return done, err
}

// Transfers implements control.Backend.
func (b *Backend) Transfers() []control.Transfer { return b.mover.Transfers() }

// EndTransfer implements control.Backend.
func (b *Backend) EndTransfer(_ context.Context, o control.TransferOrder) (control.Selected, error) {
	if o.Accept {
		return b.mover.Accept(o.ID)
	}
	return b.mover.Abandon(o.ID)
}
