package settings

import (
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/event"
	"github.com/millrace/millrace/agent/outcomes"
	"github.com/millrace/millrace/agent/suppress"
	"github.com/millrace/millrace/agent/webhook"
)

// EventPlace is where events are written.
func EventPlace(c *config.Config) event.Place {
	return event.Place{Path: c.Events.File, MaxSize: int64(c.Events.MaxSize), Keep: c.Events.Keep}
}

// OutcomesPolicy is what is kept of what became of mail.
func OutcomesPolicy(c *config.Config) outcomes.Policy {
	o := &c.Outcomes
	p := outcomes.Policy{
		Keep: time.Duration(o.Keep), KeepTotals: time.Duration(o.KeepTotals), MaxSize: int64(o.MaxSize), MinFree: int64(c.Spool.MinFree),
	}
	switch {
	case o.Recipients == config.RecipientsNone:
		p.Recipients = outcomes.None
	case o.Recipients == config.RecipientsHashed, o.Recipients == "" && !c.Log.Recipients:
		p.Recipients = outcomes.Hashed
	}
	return p
}

// WebhookPolicy is what is posted where.
func (s *Settings) WebhookPolicy() webhook.Policy {
	c := s.Config
	return webhook.Policy{Hooks: c.Webhooks, Hostname: c.Hostname, Roots: s.tls.roots, MinFree: int64(c.Spool.MinFree)}
}

// SuppressPolicy is what the suppression list is to do.
func SuppressPolicy(c *config.Config) suppress.Policy {
	s := &c.Suppression
	p := suppress.Policy{
		Mode: suppressModes[s.Mode], Streams: make(map[string]suppress.Mode, len(s.Streams)),
		After: s.After, Within: s.Within, Expire: s.Expire, Global: s.Scope == config.SuppressGlobal,
	}
	for _, x := range s.Streams {
		p.Streams[x.Name] = suppressModes[x.Mode]
	}
	return p
}

var suppressModes = map[config.SuppressionMode]suppress.Mode{
	config.SuppressOff: suppress.Off, config.SuppressAdvise: suppress.Advise, config.SuppressDrop: suppress.Drop,
}
