package admin

import (
	"context"
	"errors"
	"time"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/feedback"
)

// Feedback implements control.Backend.
func (b *Backend) Feedback(ctx context.Context, message []byte) ([]control.Finding, error) {
	found, err := b.assessor.Take(ctx, message, time.Now())
	if errors.Is(err, feedback.ErrNone) {
		return nil, nil
	}
	list := make([]control.Finding, 0, len(found))
	for _, f := range found {
		x := control.Finding{Kind: string(f.Kind), Result: string(f.Result), Recipient: f.Recipient, Stream: f.Stream, Why: f.Why}
		if f.ID != 0 {
			x.ID = f.ID.String()
		}
		list = append(list, x)
	}
	return list, err
}
