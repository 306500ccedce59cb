package agent

import (
	"context"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/orders"
	"github.com/millrace/millrace/agent/outcome"
	"github.com/millrace/millrace/agent/queue"
)

// HandBack implements control.Backend.
func (a *Agent) HandBack(ctx context.Context, f control.Filter) (control.Selected, error) {
	return a.do(ctx, &action{[]pass{{notYetReturning, (*Agent).handBack}}, true}, control.Order{Filter: f}, func(control.Selected) {})
}

// notYetReturning leaves out what waits for the host already.
func notYetReturning(a *Agent, _ *orders.Selection, e *queue.Entry) bool {
	return e.Domain != a.settings.Now().Relay
}

// handBack has mail wait for the host.
func (a *Agent) handBack(s *orders.Selection, chosen []queue.Entry) int {
	return a.decideAll(s, chosen, outcome.Decision{Action: outcome.HandBack, Enhanced: "4.3.0", Reason: "handed back by the admin"})
}

// Return implements control.Backend.
func (a *Agent) Return() control.Return { return a.watch.Return() }
