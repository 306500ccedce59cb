package control

import (
	"context"
	"errors"
	"testing"
	"time"
)

func (f fixed) Webhooks() []Webhook { return make([]Webhook, f.n) }

func (fixed) TestWebhook(_ context.Context, t WebhookTest) (string, error) {
	if t.Name == "" {
		return "", errors.New("nobody is there")
	}
	return "200 " + t.Name, nil
}

func (fixed) ReplayWebhook(_ context.Context, r WebhookReplay) (uint64, error) {
	return uint64(r.Since.Unix()), nil
}

func TestWebhooksPassTheSocket(t *testing.T) {
	t.Parallel()
	c := client(t, open(t, fixed{n: 2}))
	if list, err := c.Webhooks(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	if answer, err := c.TestWebhook(t.Context(), WebhookTest{Name: "crm"}); err != nil || answer != "200 crm" {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := c.TestWebhook(t.Context(), WebhookTest{}); err == nil {
		t.Error("no error")
	}
	if n, err := c.ReplayWebhook(t.Context(), WebhookReplay{Name: "crm", Since: time.Unix(77, 0)}); err != nil || n != 77 {
		t.Errorf("%d, %v", n, err)
	}
}
