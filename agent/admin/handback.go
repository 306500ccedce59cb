package admin

import (
	"context"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
)

// HandBack implements control.Backend.
func (b *Backend) HandBack(ctx context.Context, f control.Filter) (control.Selected, error) {
	return b.do(ctx, &action{[]pass{{notYetReturning, (*Backend).handBack}}, true}, control.Action{Filter: f}, func(control.Selected) {})
}

// notYetReturning leaves out what waits for the host already.
func notYetReturning(b *Backend, _ *orders.Selection, e *queue.Entry) bool {
	return e.Domain != b.settings.Now().Relay
}

// handBack has mail wait for the host.
func (b *Backend) handBack(s *orders.Selection, chosen []queue.Entry) int {
	return b.decideAll(s, chosen, outcome.Decision{Action: outcome.HandBack, Enhanced: "4.3.0", Reason: "handed back by the admin"})
}

// HandbackStatus implements control.Backend.
func (b *Backend) HandbackStatus() control.HandbackStatus { return b.watch.Return() }
