package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/agent/control"
)

func (backend) Webhooks() []control.Webhook {
	at := time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)
	return []control.Webhook{
		{Name: "crm", Form: "millrace", Host: "https://crm.example.com", Taken: 12345, Last: at},
		{
			Name: "listmonk", Form: "listmonk", Host: "http://127.0.0.1:9000", Waiting: 7, Lost: 2, Gone: 3, Since: at, Why: "503 Service Unavailable: down\x1b[2J",
			Aside: []control.Aside{{ID: "evt_1", Time: at, Answer: "400 Bad Request: no\x1b[2J", Event: []byte(`{"email":"a@b.example"}`)}},
		},
	}
}

func (backend) TestWebhook(_ context.Context, t control.WebhookTest) (string, error) {
	if t.Name != "crm" {
		return "", errors.New("it is not taken: 401 Unauthorized")
	}
	return "200 OK", nil
}

func (backend) ReplayWebhook(_ context.Context, r control.WebhookReplay) (uint64, error) {
	if since := time.Since(r.Since); since < 4*time.Hour || since > 5*time.Hour {
		return 0, errors.New("another time")
	}
	return 1200, nil
}

func TestWebhookVerbs(t *testing.T) {
	t.Parallel()
	config := serve(t, messages())
	for _, x := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{args: "webhook list", stdout: `NAME             FORM       WAITING      TAKEN  ASIDE   LOST  LAST TAKEN          TO
crm              millrace         0     12,345      0      0  2026-11-29 08:00:00 https://crm.example.com
listmonk         listmonk         7          0      1      2  -                   http://127.0.0.1:9000
listmonk is not taken since 2026-11-29 08:00:00: 503 Service Unavailable: down?[2J
listmonk refused at 2026-11-29 08:00:00: 400 Bad Request: no?[2J: {"email":"a@b.example"}
listmonk refused 3 more, listed no longer
`},
		{args: "webhook test crm", stdout: "taken: 200 OK\n"},
		{args: "webhook test listmonk", code: 1, stderr: "401 Unauthorized"},
		{args: "webhook replay crm --since 4h", stdout: "crm will post again what is for it of 1,200 events, in their order\n"},
		{args: "webhook replay crm", code: 64, stderr: "--since"},
		{args: "webhook replay crm --since soon", code: 64, stderr: "--since: \"soon\""},
	} {
		r := millrace(t, "TZ=UTC", append([]string{"--config", config}, strings.Fields(x.args)...)...)
		if r.code != x.code || x.code != 64 && r.stdout != x.stdout || !strings.Contains(r.stderr, x.stderr) {
			t.Errorf("%s: exit code %d\n%s\nwant\n%s\n%s", x.args, r.code, r.stdout, x.stdout, r.stderr)
		}
	}
	r := millrace(t, "TZ=UTC", "--config", config, "webhook", "list", "--json")
	fit(t, "webhook list --json", r.stdout)
	if strings.Count(r.stdout, "\n") != 2 || !strings.Contains(r.stdout, `"event":{"email":"a@b.example"}`) {
		t.Errorf("%s", r.stdout)
	}
}
