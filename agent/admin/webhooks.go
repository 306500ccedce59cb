package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/webhook"
)

// Webhooks implements control.Backend.
func (b *Backend) Webhooks() []control.Webhook {
	list := []control.Webhook{}
	for _, s := range b.webhooks.Status() {
		x := control.Webhook{
			Name: s.Name, Form: s.Form, Host: s.Host, Waiting: s.Waiting, Taken: s.Taken, Lost: s.Lost, Gone: s.Gone, Last: s.Last, Since: s.Since, Why: s.Why,
		}
		for _, a := range s.Aside {
			x.Aside = append(x.Aside, control.Aside(a))
		}
		list = append(list, x)
	}
	return list
}

// TestWebhook implements control.Backend.
func (b *Backend) TestWebhook(ctx context.Context, t control.WebhookTest) (string, error) {
	answer, err := b.webhooks.Test(ctx, t.Name)
	return answer, ofWebhook(t.Name, err)
}

// ReplayWebhook implements control.Backend.
func (b *Backend) ReplayWebhook(ctx context.Context, r control.WebhookReplay) (uint64, error) {
	n, err := b.webhooks.Replay(ctx, r.Name, r.Since)
	return n, ofWebhook(r.Name, err)
}

func ofWebhook(name string, err error) error {
	if errors.Is(err, webhook.ErrUnknown) {
		return fmt.Errorf("there is no webhook %q; remedy: name one of those that millrace webhook list has", name)
	}
	return err
}
